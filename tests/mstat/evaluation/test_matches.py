import pytest

from mstat.errors import UserError
from mstat.evaluation.matches import make_pairs
from tests.shards.trees import shared_data


def test_pairs_follow_the_rule() -> None:
    """Positives: same identity, other camera, no junk, no copy. Ignored: same identity and camera, and copies."""
    pairs = make_pairs(
        [1, 2], [0, 0], [2, 1, 1, 1, 1, 2], [1, 0, 1, 2, 1, 0],
        junk=[False, False, True, False, False, False], same=[(0, 3), (1, 4)],
    )  # fmt: skip
    assert pairs.positives_2P.T.tolist() == [[0, 4], [1, 0]]
    assert sorted(pairs.ignored_2I.T.tolist()) == [[0, 1], [0, 3], [1, 4], [1, 5]]


@pytest.mark.parametrize(
    ("ignore", "positives"),
    [
        ("camera", [3, 4, 5]),
        ("camera-and-outfit", [1, 2, 3, 4, 5]),
        ("clothes-changing", [4, 5]),
        ("same-clothes", [3]),
    ],
)
def test_rules_on_outfits(ignore: str, positives: list[int]) -> None:
    """Of a gallery of one identity (same camera and outfit; same camera, other or unknown outfit; other camera with the
    same, another or an unknown outfit), each rule leaves its matches; the others are ignored; an unknown outfit equals
    none, another unknown one included."""
    camids, outfits = [0, 0, 0, 1, 1, 1], [5, 6, -1, 5, 6, -1]
    pairs = make_pairs([1], [0], [1] * 6, camids, query_outfits=[5], gallery_outfits=outfits, ignore=ignore)
    assert pairs.positives_2P[1].tolist() == positives
    assert pairs.ignored_2I[1].tolist() == sorted(set(range(6)) - set(positives))
    unknown = make_pairs([1], [0], [1] * 6, camids, query_outfits=[-1], gallery_outfits=outfits, ignore=ignore)
    expected = {"clothes-changing": [3, 4, 5], "same-clothes": [], "camera-and-outfit": [0, 1, 2, 3, 4, 5]}
    assert unknown.positives_2P[1].tolist() == expected.get(ignore, positives)


def test_wrong_outfits_are_refused() -> None:
    """An unknown rule, a rule without outfits, and outfits of another length are refused."""
    with pytest.raises(UserError, match="ignore='hats': choose one of camera, camera-and-outfit"):
        make_pairs([1], [0], [1], [1], ignore="hats")
    with pytest.raises(UserError, match="needs query_outfits and gallery_outfits"):
        make_pairs([1], [0], [1], [1], query_outfits=[1], ignore="same-clothes")
    with pytest.raises(UserError, match="2 gallery outfits, but there must be 1"):
        make_pairs([1], [0], [1], [1], query_outfits=[1], gallery_outfits=[1, 2], ignore="same-clothes")


def test_official_counts_of_mars() -> None:
    """MARS's own metadata give 1,980 valid queries over 11,310 gallery tracklets."""
    folder = shared_data("mars")
    from scipy.io import loadmat

    tracks = loadmat(folder / "tracks_test_info.mat")["track_test_info"].astype(int)
    queries = tracks[loadmat(folder / "query_IDX.mat")["query_IDX"].ravel().astype(int) - 1]
    pairs = make_pairs(queries[:, 2], queries[:, 3], tracks[:, 2], tracks[:, 3], junk=tracks[:, 2] == -1)
    assert len(pairs.positives_2P[0].unique()) == pairs.num_query == 1980
    assert int((~pairs.junk_G).sum()) == 11310
