"""Every setting of a run, as typed dataclasses: the one place to look for a field, its default and its reason.

Defaults are the paper's recipe (../docs/paper.md marks what the paper leaves open); a YAML in configs/ changes
what its data set needs, and the command line changes that. Importing this file costs nothing: no torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

ALL_SPLITS = "all"
ACTIONS_SHARDS = "data/actions/shards"  # of configs/actions.yaml: launch/pretrain.py makes them where they are missing


def within(interval: str, default: Any) -> Any:
    """A field whose numbers must lie in an interval, as mathematics writes it: [ and ] hold the end, ( and ) do not."""
    return field(default=default, metadata={"interval": interval})


@dataclass(frozen=True)
class DataConfig:
    """The tracklets that are trained or scored.

    Attributes:
        shards: Folder made by `python -m shards build`.
        protocol: Name of a protocol of the set; null takes the first one it lists.
        split: Name of a split of that protocol; null takes the first one. `all` trains or scores a run for each, in
            RUN/split-<name>, and reports the mean of their scores.
        num_workers: Processes that decode and augment clips on each rank; 0 does it in the training process.
    """

    shards: str = "data/synthetic/shards"
    protocol: str | None = None
    split: str | None = None
    num_workers: int = within("[0, 1024]", 4)


@dataclass(frozen=True)
class BatchConfig:
    """The global batch, over all ranks together: P identities times K tracklets.

    Attributes:
        num_identities: P, different identities in a batch; BatchHard needs 2 at least.
        num_tracklets: K, clips of each, from different cameras where the identity has them; BatchHard needs 2 at least.
    """

    num_identities: int = within("[1, 2147483647]", 12)
    num_tracklets: int = within("[1, 2147483647]", 2)


@dataclass(frozen=True)
class ClipConfig:
    """The making of a training clip out of a tracklet.

    Attributes:
        num_frames: T.
        sampling: `segments` draws one frame from each of T equal parts; `stride` takes T frames at a fixed stride.
        stride: Frames between two neighbours where sampling is `stride`.
        flip: Probability of a horizontal flip, the same on every frame of a clip (as all augmentation here).
        crop_padding: Pixels of padding around a frame before a random crop to its own size.
        erase: Probability of random erasing.
    """

    num_frames: int = within("[1, 65535]", 8)
    sampling: Literal["segments", "stride"] = "segments"
    stride: int = within("[1, 2147483647]", 4)
    flip: float = within("[0, 1]", 0.5)
    crop_padding: int = within("[0, 32767]", 10)
    erase: float = within("[0, 1]", 0.5)


@dataclass(frozen=True)
class ModelConfig:
    """MSTAT's shape. Defaults are the paper's; every size, down to one for a CPU, is these fields alone.

    Attributes:
        init: What to start from: a TimeSformer (official or Hugging Face), a plain ViT of timm's, or an MSTAT of ours;
            a file, a folder with one, a run, or a checkpoint. `python -m mstat.model --init PATH` shows what would be
            taken from it. A run that goes on from a checkpoint does not need it any more.
        image_size: Height and width in pixels; frames are resized to it.
        patch_size: P, side of a square patch in pixels.
        width: D, length of a token. The paper has D = 3 P^2.
        num_heads: Attention heads, in every module.
        mlp_ratio: Hidden width of a block's MLP over D.
        stages: Which stages there are, Stage I always: the features of these are trained and joined.
        depths: Number of blocks of Stage I (STA), Stage II (STA) and Stage III (A-STA), before their AAP or IAP.
        num_attributes: A, attribute proxies of Stage I's AAP.
        num_temporal_attributes: A of the first AAP of each A-STA.
        num_prototypes: M, identity prototypes per head of each IAP.
        iap_norm: `softmax-l1` (external attention: softmax over tokens, then L1 over prototypes) or
            `l1-softmax` (Eq. 5 to the letter: L1 over prototypes, then softmax over tokens).
        tps_probability: Temporal patch shuffling: probability for a training clip.
        tps_positions: Spatial positions that are shuffled in such a clip.
        tps_block: The block of Stage I before which that happens; 0 is the stem, the paper's place.
        drop_path: Stochastic depth of the last block; grows linearly from 0 over depth.
        bnneck: BatchNorm between a stage's feature and its classifier; the triplet loss sees the feature before it.
        stage1_aap: Stage I ends in its AAP; off (Table VI, without attributes), its feature is the class token.
        stage3_asta: Stage III is made of A-STA blocks; off, of STA blocks (the wider reading of that same row).
        iap: Which stages end in an IAP; in the others an STA block takes its place (Table III).
    """

    init: str | None = None
    image_size: tuple[int, int] = within("[1, 65535]", (224, 112))
    patch_size: int = within("[1, 65535]", 16)
    width: int = within("[1, 2147483647]", 768)
    num_heads: int = within("[1, 2147483647]", 12)
    mlp_ratio: float = within("(0, inf)", 4.0)
    stages: tuple[Literal["I", "II", "III"], ...] = ("I", "II", "III")
    depths: tuple[int, int, int] = within("[0, 1024]", (8, 3, 3))
    num_attributes: int = within("[1, 2147483647]", 24)
    num_temporal_attributes: int = within("[1, 2147483647]", 24)
    num_prototypes: int = within("[1, 2147483647]", 64)
    iap_norm: Literal["softmax-l1", "l1-softmax"] = "softmax-l1"
    tps_probability: float = within("[0, 1]", 0.2)
    tps_positions: int = within("[1, 2147483647]", 5)
    tps_block: int = within("[0, 1024]", 0)
    drop_path: float = within("[0, 1)", 0.1)
    bnneck: bool = False
    stage1_aap: bool = True
    stage3_asta: bool = True
    iap: Literal["both", "II", "III", "none"] = "both"


@dataclass(frozen=True)
class LossConfig:
    """The two losses of every stage.

    Attributes:
        metric: Metric loss: `batch_hard` (the paper's), or another of Table V. All are scaled to one magnitude
            (mstat/losses/metric.py).
        margin: Margin of the BatchHard triplet loss; null takes the soft margin log(1 + exp(x)).
        unit_length: Take BatchHard's distances between features scaled to length 1 instead of as they are. From
            scratch it keeps a small margin from shrinking all features towards one point.
        angular_margin: Margin of ArcFace (degrees) or SphereFace (a factor); null takes that loss's usual one, 28.6
            or 4.
        label_smoothing: Of the cross-entropy.
        metric_weight: Weight of the metric loss of each stage.
        metric_warmup_steps: Steps over which that weight rises linearly from 0. From scratch, hard mining before
            features mean anything draws all clips onto one point; a pretrained start does not need it.
        mining_groups: BatchHard compares clips within this many equal, consecutive parts of the global batch only;
            1 compares all. With R it is what R ranks that mine alone would do (docs/scaling.md).
        cross_entropy_weight: Weight of the cross-entropy of each stage.
    """

    metric: Literal["batch_hard", "arcface", "sphereface", "oim", "none"] = "batch_hard"
    margin: float | None = within("[0, inf)", 0.3)
    unit_length: bool = False
    angular_margin: float | None = within("(0, 180)", None)
    label_smoothing: float = within("[0, 1)", 0.1)
    metric_weight: float = within("[0, inf)", 1.0)
    metric_warmup_steps: int = within("[0, 2147483647]", 0)
    mining_groups: int = within("[1, 2147483647]", 1)
    cross_entropy_weight: float = within("[0, inf)", 1.0)


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser. Biases, norms, scalars, proxies, class tokens and positions get no weight decay.

    Attributes:
        name: `sgd` (Nesterov, the paper's) or `adamw` (learns from scratch on small sets).
        lr: Learning rate for the batch of the config.
        momentum: Of SGD.
        weight_decay: The paper prints 5x10^5, which must be 5x10^-5.
        lr_scaling: How `lr` follows a global batch other than 24 clips: not at all, linearly, or by the square root.
        clip_grad_norm: Largest gradient norm; null does not clip.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = within("(0, inf)", 1e-3)
    momentum: float = within("[0, 1)", 0.9)
    weight_decay: float = within("[0, inf)", 5e-5)
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    clip_grad_norm: float | None = within("(0, inf)", None)


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate as a pure function of the step. An epoch is ceil(identities / P) steps.

    Attributes:
        name: `step` multiplies by `gamma` every `step_epochs` epochs; `cosine` falls to 0 at the last step.
        gamma: Factor of `step`.
        step_epochs: Epochs between two factors of `step`.
        warmup_steps: Steps over which the rate rises linearly from 0, before either.
    """

    name: Literal["step", "cosine"] = "step"
    gamma: float = within("(0, 1]", 0.75)
    step_epochs: int = within("[1, 2147483647]", 25)
    warmup_steps: int = within("[0, 2147483647]", 0)


@dataclass(frozen=True)
class TrainConfig:
    """The loop.

    Attributes:
        steps: Length of the run in steps; null takes `epochs`.
        epochs: Length in epochs where `steps` is null; the paper does not give it.
        precision: `no` (fp32) or `bf16` (autocast; losses stay fp32). It decides, whatever the Accelerate YAML says.
        compile: Compile the model's blocks when they are first used (torch.compile; a minute once, kept on disk;
            needs a C++ compiler on CPUs). Losses are equal to rounding. Evaluation is never compiled.
        activation_checkpointing: Keep only what enters each block and compute the block again in the backward pass:
            the same numbers with less memory and one more forward pass a step. For batches that do not fit otherwise.
        save_every: Steps between checkpoints; 0 saves at the end only. They are copied, which takes their size in CPU
            memory from the first one on, and written during the next steps.
        keep: Newest checkpoints that are kept.
        keep_best: Keep the checkpoint with the best score of the evaluations during training, too: by mAP, or rank-1
            where a protocol has no mAP. Needs `eval_every`. `launch/evaluate.py --checkpoint best` scores it.
        eval_every: Steps between evaluations during training; 0 evaluates at the end only, null never.
        log_every: Steps between two reads of the losses from the device (each waits for it).
        timeout_minutes: How long a process waits for the others before it gives up; longer than a save takes.
    """

    steps: int | None = within("[1, 2147483647]", None)
    epochs: int = within("[1, 2147483647]", 240)
    precision: Literal["no", "bf16"] = "bf16"
    compile: bool = False
    activation_checkpointing: bool = False
    save_every: int = within("[0, 2147483647]", 500)
    keep: int = within("[1, 2147483647]", 2)
    keep_best: bool = False
    eval_every: int | None = within("[0, 2147483647]", 0)
    log_every: int = within("[1, 2147483647]", 10)
    timeout_minutes: float = within("(0, 100000]", 30.0)


@dataclass(frozen=True)
class EvalConfig:
    """The evaluation: tracklets to features, features to scores.

    Attributes:
        num_frames: Frames of a tracklet that are seen: drawn with a fixed seed, kept in order.
        mode: `sample` takes `num_frames` frames once; `clips` cuts all of the tracklet into clips of `num_frames`
            and averages their features.
        batch_size: Clips that one rank embeds at a time; a constant, so that scores do not depend on the ranks.
        stage_norm: L2-normalise each stage's feature before they are joined.
        seed: Of the frame draw, and of where `occlusion` lies.
        occlusion: Part of each frame's area under a grey rectangle, whose place is drawn for each tracklet and is the
            same on all its frames; 0 covers nothing.
        resolution: Height in pixels to which frames are shrunk before they are brought to `model.image_size`; null
            takes them as stored, and those that are no higher stay as they are.
        degrade: Whose frames `occlusion` and `resolution` spoil: `queries` alone, which are searched in a gallery of
            good ones, as is usual, or `all`.
        baselines: Score the untrained model and two colour histograms beside the trained one.
        pictures: Show the test identities in the plane (t-SNE), and what the attributes look at, in the report.
        num_rankings: Hardest queries whose nearest gallery tracklets go into the report; and a third as many others.
    """

    num_frames: int = within("[1, 65535]", 32)
    mode: Literal["sample", "clips"] = "sample"
    batch_size: int = within("[1, 2147483647]", 8)
    stage_norm: bool = False
    seed: int = within("[0, 9223372036854775807]", 0)
    occlusion: float = within("[0, 1]", 0.0)
    resolution: int | None = within("[1, 65535]", None)
    degrade: Literal["queries", "all"] = "queries"
    baselines: bool = False
    pictures: bool = True
    num_rankings: int = within("[0, 2147483647]", 24)


@dataclass(frozen=True)
class PretrainConfig:
    """The STA stack as a classifier of actions. launch/pretrain.py alone reads it.

    Attributes:
        time: `divided` is TimeSformer's: temporal attention in every block, and a position for each frame of a clip.
            `none` leaves both out: the control that shows what time is good for.
    """

    time: Literal["divided", "none"] = "divided"


@dataclass(frozen=True)
class Config:
    """A whole run.

    Attributes:
        run: The run folder; made if missing, continued if it holds checkpoints (`resume`).
        seed: Of everything that is drawn: weights, batches, frames, augmentation, shuffling.
        resume: `auto` goes on from the newest whole checkpoint of the run folder; `never` refuses a used folder.
    """

    run: str = "runs/synthetic"
    seed: int = within("[0, 9223372036854775807]", 0)
    resume: Literal["auto", "never"] = "auto"
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)


def changed(config: Config, settings: Mapping[str, Any]) -> Config:
    """The config with other values for some dotted keys, which are neither parsed nor checked."""
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        if section:
            name, value = section, replace(getattr(config, section), **{name: value})
        config = replace(config, **{name: value})
    return config
