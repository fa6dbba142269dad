import dataclasses
from pathlib import Path

import pytest

from launch.model import count, main
from mstat.config import ModelConfig
from tests.mstat.model.small import SMALL


def parameters_by_hand(c: ModelConfig) -> int:
    """Every layer written out: D width, N patches, A proxies, M prototypes."""
    d, n = c.width, (c.image_size[0] // c.patch_size) * (c.image_size[1] // c.patch_size)
    norm, linear = 2 * d, d * d + d
    attention = 4 * linear
    mlp = round(2 * c.mlp_ratio * d * d + c.mlp_ratio * d + d)
    sta = (norm + attention + linear) + (norm + attention) + (norm + mlp) + 2
    aap = norm + 3 * linear
    asta = sta + (aap + c.num_temporal_attributes * d) + (aap + n * d)
    iap = norm + d * d + linear + 2 * c.num_prototypes * d + norm + mlp
    stem = 3 * c.patch_size**2 * d + d + n * d + d
    stage1 = c.depths[0] * sta + aap + c.num_attributes * d + norm
    stage2 = c.depths[1] * sta + iap + norm
    stage3 = c.depths[2] * asta + iap + norm + d
    return stem + stage1 + stage2 + stage3


def flops_by_hand(c: ModelConfig, t: int) -> int:
    """Twice the multiply-adds of the forward pass on a clip of t frames."""
    d, m = c.width, c.num_prototypes
    n = (c.image_size[0] // c.patch_size) * (c.image_size[1] // c.patch_size)
    tokens = n * t
    mlp = 2 * round(c.mlp_ratio * d) * d

    def attention(sequences: int, length: int) -> int:
        return sequences * (length * 4 * d * d + 2 * length * length * d)

    def aap(sequences: int, length: int, proxies: int) -> int:
        return sequences * (length * 2 * d * d + 2 * proxies * length * d + proxies * d * d)

    space_and_mlp = attention(t, n + 1) + (tokens + 1) * mlp
    sta = attention(n, t) + tokens * d * d + space_and_mlp
    a = c.num_temporal_attributes
    asta = aap(t, n, a) + attention(a, t) + aap(t, a, n) + tokens * d * d + space_and_mlp
    iap = (tokens + 1) * (d * d + m * d) + m * d + d * d + mlp
    stem = tokens * 3 * c.patch_size**2 * d
    stages = (c.depths[0] + c.depths[1]) * sta + c.depths[2] * asta
    return 2 * (stem + stages + aap(1, tokens + 1, c.num_attributes) + 2 * iap)


@pytest.mark.parametrize(("config", "frames"), [(SMALL, 4), (dataclasses.replace(SMALL, width=48, mlp_ratio=3.0), 5)])
def test_sizes_agree_with_a_count_by_hand(config: ModelConfig, frames: int) -> None:
    """Parameters and FLOPs are those of the layers written out as arithmetic."""
    sizes = count(config, frames)
    assert sum(size.parameters for size in sizes.values()) == parameters_by_hand(config)
    assert sum(size.flops for size in sizes.values()) == flops_by_hand(config, frames)


def test_the_papers_model_has_166_million_parameters() -> None:
    """The paper's shapes: 165,986,332 parameters without classifiers; 231.6 GFLOP for 8 frames, 928.5 for 32."""
    sizes = count(ModelConfig(), 8)
    assert sum(size.parameters for size in sizes.values()) == parameters_by_hand(ModelConfig()) == 165_986_332
    assert sum(size.flops for size in sizes.values()) == flops_by_hand(ModelConfig(), 8)
    assert round(flops_by_hand(ModelConfig(), 8) / 1e9, 1) == 231.6
    assert round(flops_by_hand(ModelConfig(), 32) / 1e9, 1) == 928.5


def test_table_is_of_the_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The totals printed are those of a run's YAML."""
    path = tmp_path / "run.yaml"
    path.write_text(
        "run: somewhere\nclip: {num_frames: 3, crop_padding: 2}\n"
        "model: {image_size: [32, 16], patch_size: 8, width: 32, num_heads: 4, depths: [2, 2, 1], num_attributes: 5,"
        " num_temporal_attributes: 3, num_prototypes: 7}\n"
    )
    assert main(["--config", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "3 frames" in printed
    assert f"{parameters_by_hand(SMALL):,}" in printed
    assert f"{flops_by_hand(SMALL, 3) / 1e9:,.3f}" in printed
    assert main(["--config", str(path), "--frames", "6"]) == 0
    assert f"{flops_by_hand(SMALL, 6) / 1e9:,.3f}" in capsys.readouterr().out
    assert main(["--model.num_prototypes", "9", "--config", str(path)]) == 0
    assert f"{parameters_by_hand(dataclasses.replace(SMALL, num_prototypes=9)):,}" in capsys.readouterr().out


def test_unknown_setting_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt field ends in status 2 and names the nearest valid one."""
    path = tmp_path / "run.yaml"
    path.write_text("model: {widht: 32}\n")
    with pytest.raises(SystemExit) as exit_info:
        main(["--config", str(path)])
    assert exit_info.value.code == 2
    assert "model.width" in capsys.readouterr().err
