"""kill -9 at random moments, then the same command: bit for bit the run nobody touched. More of it: make acceptance."""
import pytest

from tests.kills import killed_again_and_again


@pytest.mark.parametrize("model,replicas,precision", [("cnn", 1, "float32"), ("three_apis", 2, "mixed_bfloat16")])
def test_a_run_killed_at_random_moments_ends_with_the_same_weights(tmp_path, model, replicas, precision):
    found = killed_again_and_again(tmp_path, model, replicas, precision, wanted=3, seed=replicas)
    assert found["kills"] == 3
