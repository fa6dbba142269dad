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


def test_official_counts_of_mars() -> None:
    """MARS's own metadata give 1,980 valid queries over 11,310 gallery tracklets."""
    folder = shared_data("mars")
    from scipy.io import loadmat

    tracks = loadmat(folder / "tracks_test_info.mat")["track_test_info"].astype(int)
    queries = tracks[loadmat(folder / "query_IDX.mat")["query_IDX"].ravel().astype(int) - 1]
    pairs = make_pairs(queries[:, 2], queries[:, 3], tracks[:, 2], tracks[:, 3], junk=tracks[:, 2] == -1)
    assert len(pairs.positives_2P[0].unique()) == pairs.num_query == 1980
    assert int((~pairs.junk_G).sum()) == 11310
