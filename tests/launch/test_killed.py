"""kill -9 at random moments, then the same command: bit for bit the run nobody touched.

Models, replicas and precisions in all combinations, a hundred kills, are cells of make acceptance.
"""
import pytest

from tests.kills import killed_again_and_again


@pytest.mark.acceptance
def test_a_run_killed_at_random_moments_ends_with_the_same_weights(tmp_path):
    found = killed_again_and_again(tmp_path, "mlp", 2, "float32", wanted=2, seed=2)
    assert found["kills"] == 2
