"""The manifest against the public schema, and the cluster of its pods."""
import copy
import json
import re

import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

from launch.cluster import agent, jobset
from launch.cluster.adapters import from_environment
from pipeline.errors import UsageError
from tests.commands import mirrorline

MANIFEST = {"name": "digits", "workers": 3, "command": ["train", "--model=mlp", "--augment=flip,crop"],
            "workdir": "/runs/digits", "image": "registry.example/mirrorline:1", "volume": "shared:/runs",
            "limits": ["--max_restarts=3"], "grace": 300.0}


def documents(**changed):
    """Returns (the JobSet, the NetworkPolicy) of a manifest."""
    return by_kind(jobset.manifest(**{**MANIFEST, **changed}))


def by_kind(text):
    found = {document["kind"]: document for document in yaml.safe_load_all(text)}
    return found["JobSet"], found["NetworkPolicy"]


def pod_spec(document):
    return document["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def accept(document):
    """Takes a document through the models made of JobSet's and Kubernetes's OpenAPI, which refuse what has another type
    and drop what they do not know."""
    assert JobsetV1alpha2JobSet.from_dict(document).to_dict() == document


@pytest.mark.parametrize("changed", [{}, {"gpus": 8, "cpus": "500m", "memory": "16Gi"}, {"workers": 1},
                                     {"command": ["train", "--class_names=a: 'b',\"c\"", "--x=$(HOME) #"]}])
def test_manifest_matches_the_schema_of_a_jobset(changed):
    accept(documents(**changed)[0])


@pytest.mark.parametrize("path, value", [
    (("spec", "failurePolicy", "maxRestarts"), "3"), (("spec", "network", "enableDNSHostNames"), True),
    (("spec", "replicatedJobs", 0, "template", "spec", "backofLimit"), 0),
    (("spec", "replicatedJobs", 0, "template", "spec", "podFailurePolicy", "rules", 0, "action"), 5),
    (("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "containers", 0, "arguments"), []),
])
def test_schema_check_detects_unknown_fields(path, value):
    document = copy.deepcopy(documents()[0])
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises((ValueError, AssertionError)):
        accept(document)


def test_pods_are_workers_of_one_run():
    document, _ = documents(gpus=2)
    job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["completionMode"], job["completions"], job["parallelism"], job["backoffLimit"]) == ("Indexed", 3, 3, 0)
    pod = pod_spec(document)
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] == 300
    container = pod["containers"][0]
    assert container["command"] + container["args"] == [
        "mirrorline", "launch", "--agent", "--max_restarts=3", "--", "train", "--model=mlp", "--augment=flip,crop",
        "--workdir=/runs/digits"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 2}}
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted["shared"] == "/runs"
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "shared"


@pytest.mark.parametrize("word", ["on", "no", "true", "null", "y"])
def test_yaml_keyword_stays_a_name(word):
    document, policy = documents(name=word, volume=f"{word}:/runs")
    assert document["metadata"]["name"] == policy["metadata"]["name"] == word
    assert document["spec"]["network"]["subdomain"] == word
    assert pod_spec(document)["volumes"][0]["persistentVolumeClaim"]["claimName"] == word


def test_wrong_flags_and_given_up_runs_are_not_restarted():
    document, _ = documents()
    job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
    rule, = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [2, agent.GIVEN_UP]
    assert rule["onExitCodes"]["containerName"] == pod_spec(document)["containers"][0]["name"]
    rule, = document["spec"]["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])


def variables(document, index, attempt):
    """Returns the variables of a pod, as Kubernetes and JobSet give them."""
    name, (job,) = document["metadata"]["name"], document["spec"]["replicatedJobs"]
    annotations = {"jobset.sigs.k8s.io/jobset-name": name, "jobset.sigs.k8s.io/replicatedjob-name": job["name"],
                   "jobset.sigs.k8s.io/job-index": "0", "jobset.sigs.k8s.io/restart-attempt": str(attempt)}
    found = {"JOB_COMPLETION_INDEX": str(index)}
    for variable in pod_spec(document)["containers"][0]["env"]:
        path = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        found[variable["name"]] = annotations[re.fullmatch(r"metadata\.annotations\['(.*)'\]", path)[1]] \
            if path else variable["value"]
    return found


@pytest.mark.parametrize("workers, index, attempt", [(3, 0, 0), (3, 2, 5), (2, 1, 1)])
def test_pod_variables_give_tf_config(workers, index, attempt):
    document, _ = documents(workers=workers)
    found = from_environment(variables(document, index, attempt))
    assert json.loads(found.tf_config) == {
        "cluster": {"worker": [f"digits-workers-0-{pod}.digits:2222" for pod in range(workers)]},
        "task": {"type": "worker", "index": index}}
    assert found.attempt == attempt
    assert document["spec"]["network"] == {"enableDNSHostnames": True, "subdomain": "digits"}


def test_single_pod_has_no_cluster():
    assert from_environment(variables(documents(workers=1)[0], 0, 0)) is None


def test_network_policy_admits_only_workers_of_the_run():
    document, policy = documents()
    own = {"matchLabels": {"jobset.sigs.k8s.io/jobset-name": document["metadata"]["name"]}}
    assert policy["apiVersion"] == "networking.k8s.io/v1" and policy["kind"] == "NetworkPolicy"
    assert policy["spec"] == {"podSelector": own, "policyTypes": ["Ingress"],
                              "ingress": [{"from": [{"podSelector": own}]}]}


def test_network_policy_comes_before_the_pods():
    # kubectl creates one document after the other.
    assert [document["kind"] for document in yaml.safe_load_all(jobset.manifest(**MANIFEST))] == [
        "NetworkPolicy", "JobSet"]


def test_arguments_are_not_expanded_as_variables():
    # Kubernetes puts the value of a variable in the place of $(NAME), and $(NAME) in that of $$(NAME).
    assert pod_spec(documents(command=["train", "--x=$(HOME)"])[0])["containers"][0]["args"][-2] == "--x=$$(HOME)"


@pytest.mark.parametrize("changed, words", [
    ({"name": "Digits"}, "--name=Digits"), ({"name": "7digits"}, "first is a letter"),
    ({"name": "d" * 46}, "at most 45"),
    ({"volume": "shared"}, "--volume=shared"), ({"volume": "a b:/runs"}, "PersistentVolumeClaim"),
    ({"workdir": "/home/x"}, "not in the volume"), ({"workdir": "/runs2/x"}, "not in the volume"),
    ({"image": ""}, "--image is missing"), ({"memory": "16 GB"}, "no quantity"), ({"cpus": "many"}, "no quantity"),
])
def test_invalid_values_are_reported_in_one_line(changed, words):
    with pytest.raises(UsageError, match=words) as error:
        documents(**changed)
    assert "\n" not in str(error.value)


def test_command_prints_the_job(tmp_path):
    done = mirrorline("launch", "--engine=kubernetes", "--print", "--workers=2", "--image=mirrorline:1", "--gpus=1",
                      "--volume=shared:/runs", "--", "train", "--model=mlp", "--workdir=/runs/digits", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document, _ = by_kind(done.stdout)
    accept(document)
    assert document["metadata"]["name"] == "mirrorline-digits" and list(tmp_path.iterdir()) == []
