"""A model of digits without training, its data, and what travels with its export."""
import dataclasses

from pipeline.data.sources.digits import load_digits
from pipeline.export.metadata import metadata
from tests.export.fresh_models import trained_model

RESULT = {"status": "finished", "step": 1, "test_accuracy": 0.1, "selected_on": "test", "best": {"step": 1}}


def digits_model(name="mlp", precision="float32"):
    """Returns (TrainedModel, Source): as of a run of one step on digits in a precision."""
    source = load_digits(None)
    made = trained_model(name, classes=10, image_shape=(28, 28, 1))
    config = {**made.stored["config"], "precision": precision, "dataset": "digits", "steps": 1}
    data = {"name": "digits", "fingerprint": source.fingerprint, "class_names": list(made.class_names),
            "image_shape": [28, 28, 1], "num_train": 1437, "num_validation": 0, "num_test": 360}
    stored = {"config": config, "data": data, "preprocessing": made.stored["preprocessing"],
              "num_replicas": 2, "versions": {"tensorflow": "2.21.0"}}
    return dataclasses.replace(made, stored=stored), source


def described(trained):
    """Returns its metadata."""
    return metadata(trained, version="1.2.3", result=RESULT)
