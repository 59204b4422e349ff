"""Validates what kustomize has made and what the chart makes, and compares the two. A part of scripts/ci/manifests.

check-manifests.py DIRECTORY CHART    DIRECTORY holds one file for each overlay; empty: only the chart is checked
"""

import copy
import json
import pathlib
import sys

import helm_python
import kubernetes_validate
import yaml

# The newest one that all clusters in support have, and the newest one that the validator knows.
VERSIONS = ["1.33", kubernetes_validate.latest_version()]
SETTINGS = (pathlib.Path(__file__).resolve().parents[2] / "docs/configuration.md").read_text()
# Custom resources, whose schemas belong to somebody else; what is in them of Kubernetes' own is validated as a pod.
CUSTOM = {"ServiceMonitor", "SandboxTemplate", "SandboxWarmPool"}


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def name_of(document):
    return f"{document['kind']}/{document['metadata']['name']}"


def validate(document, where):
    if document["kind"] == "SandboxTemplate":
        pod = document["spec"]["podTemplate"]
        document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "of-template"} | pod["metadata"], "spec": pod["spec"]}
    elif document["kind"] in CUSTOM:
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except Exception as error:
            sys.exit(f"error: {where}: {name_of(document)} for Kubernetes {version}: {error}")


def pod_of(document):
    """The pod that it makes, if it makes any."""
    spec = document.get("spec", {})
    return spec.get("podTemplate") or spec.get("template") or {}


def must_hold(document, where):
    """What no change may lose, for every pod in which guests run."""
    spec = pod_of(document).get("spec", {})
    for container in spec.get("containers", []):
        if container["name"] != "sandbox-executor":
            continue
        security = container["securityContext"]
        for held, what in [
            (spec["hostUsers"] is False, "a user namespace of its own"),
            (spec["securityContext"]["runAsNonRoot"] is True, "not root"),
            (spec["securityContext"]["seccompProfile"]["type"] == "Localhost", "our seccomp profile"),
            ("appArmorProfile" in spec["securityContext"], "a word on AppArmor, whose usual profile denies mounts"),
            (spec["automountServiceAccountToken"] is False, "no token of the API server"),
            (security["capabilities"] == {"drop": ["ALL"]}, "no capability"),
            (security["allowPrivilegeEscalation"] is False, "no more privileges"),
            (security["readOnlyRootFilesystem"] is True, "a read-only root"),
            (security["procMount"] == "Unmasked", "a visible /proc, or no sandbox starts"),
            (not spec.get("hostNetwork") and not spec.get("hostPID"), "no namespace of the host's"),
            ("limits" in container["resources"], "a limit of memory"),
            (not any("hostPath" in volume for volume in spec["volumes"]), "nothing of the host's files"),
        ]:
            if not held:
                sys.exit(f"error: {where}: {name_of(document)} lacks: {what}")
        for variable in container["env"]:
            if f"`{variable['name']}`" not in SETTINGS:
                sys.exit(f"error: {where}: {name_of(document)} sets {variable['name']}, which is no setting")
        return 1
    return 0


def must_meet(documents, where):
    """Whoever selects finds somebody, and the autoscaler scales what is there."""
    labels = {name_of(one): one["metadata"].get("labels") or {} for one in documents}
    pods = [pod_of(one)["metadata"]["labels"] for one in documents if pod_of(one)]
    services = [labels[name_of(one)] for one in documents if one["kind"] == "Service"]
    for one in documents:
        spec = one.get("spec", {})
        if one["kind"] == "Service":
            selectors, found_in = [spec["selector"]], pods
        elif one["kind"] == "ServiceMonitor":
            selectors, found_in = [spec["selector"]["matchLabels"]], services
        elif one["kind"] in ("PodDisruptionBudget", "Deployment", "StatefulSet", "DaemonSet"):
            selectors, found_in = [spec["selector"]["matchLabels"]], pods
        elif one["kind"] == "NetworkPolicy":
            selectors, found_in = [spec["podSelector"]["matchLabels"]], pods
        else:
            selectors, found_in = [], []
        for selector in selectors:
            if not any(selector.items() <= candidate.items() for candidate in found_in):
                sys.exit(f"error: {where}: {name_of(one)} selects nobody: {selector}")
        if one["kind"] == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            if f"{target['kind']}/{target['name']}" not in labels:
                sys.exit(f"error: {where}: {name_of(one)} scales nothing: {target}")


def comparable(document):
    """Without what Helm and kustomize say of themselves."""
    document = copy.deepcopy(document)

    def strip(node):
        if isinstance(node, dict):
            for key in ["app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "app.kubernetes.io/version", "helm.sh/chart"]:
                node.pop(key, None)
            node.pop("checksum/profile", None)
            for key in ["labels", "annotations"]:
                if key in node and not node[key]:
                    del node[key]
            return {key: strip(value) for key, value in node.items()}
        if isinstance(node, list):
            return [strip(item) for item in node]
        # kustomize adds a hash to the names of generated maps.
        if isinstance(node, str) and node.startswith("sandbox-executor-seccomp-"):
            return "sandbox-executor-seccomp"
        return node

    document = strip(document)
    # The seccomp map is labelled by Helm alone.
    if document["kind"] == "ConfigMap":
        document["metadata"].pop("labels", None)
    for empty in ["labels", "annotations"]:
        template = document.get("spec", {}).get("template", {}).get("metadata", {}) if document["kind"] != "ConfigMap" else {}
        if template.get(empty) == {}:
            del template[empty]
    return document


def compare(kustomized, charted, what):
    left = {name_of(one): one for one in map(comparable, kustomized)}
    right = {name_of(one): one for one in map(comparable, charted)}
    if left.keys() != right.keys():
        sys.exit(f"error: {what}: only one of manifests and chart has {sorted(left.keys() ^ right.keys())}")
    for name in left:
        if left[name] != right[name]:
            sys.exit(
                f"error: {what}: {name} differs\nmanifests: {json.dumps(left[name], sort_keys=True)}\n"
                f"chart:     {json.dumps(right[name], sort_keys=True)}"
            )


def chart_documents(path, values):
    chart = helm_python.Chart.load(path)
    try:
        rendered = chart.render(values, name="sandbox-executor", namespace="sandbox")
    finally:
        chart.close()
    return [
        document
        for name, text in sorted(rendered.items())
        if name.endswith(".yaml")
        for document in documents(text)
    ]


def main(directory, chart):
    helm_python.disable_logging() if hasattr(helm_python, "disable_logging") else None
    executors = 0
    overlays = {}
    for path in sorted(pathlib.Path(directory).glob("*.yaml")):
        overlays[path.stem] = documents(path.read_text())
        for document in overlays[path.stem]:
            validate(document, path.stem)
            executors += must_hold(document, path.stem)
        must_meet(overlays[path.stem], path.stem)
        print(f"{path.stem}: {len(overlays[path.stem])} resources are valid")

    linted = helm_python.lint(chart, strict=True)
    faults = [message for message in linted["messages"] if message["severity"] > 1]
    if faults or linted["errors"]:
        sys.exit(f"error: {chart}: {faults} {linted['errors']}")
    variants = {
        "defaults": {},
        **{name: yaml.safe_load((pathlib.Path(chart) / f"values-{name}.yaml").read_text()) for name in ["production", "sessions"]},
        "everything else": {
            "image": {"tag": "x", "pullPolicy": "Always"},
            "imagePullSecrets": [{"name": "registry"}],
            "env": [{"name": "LOG_LEVEL", "value": "debug"}],
            "podDisruptionBudget": {"enabled": False},
            "networkPolicy": {"extraEgress": [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 443}]}]},
            "appArmorProfile": {"type": "Localhost", "localhostProfile": "sandbox-executor"},
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
        },
        "nothing else": {"networkPolicy": {"enabled": False}, "seccomp": {"install": False}},
    }
    charted = {}
    for name, values in variants.items():
        charted[name] = chart_documents(chart, values)
        for document in charted[name]:
            validate(document, f"chart, {name}")
            executors += must_hold(document, f"chart, {name}")
        must_meet(charted[name], f"chart, {name}")
        print(f"chart, {name}: {len(charted[name])} resources are valid")
    # A misspelt value must not be swallowed.
    try:
        chart_documents(chart, {"replica": 3})
    except helm_python.HelmError:
        pass
    else:
        sys.exit("error: the chart swallows a misspelt value")

    if overlays:
        compare(overlays["base"] + overlays["seccomp"], charted["defaults"], "base and the chart's defaults")
        for name in ["production", "sessions"]:
            compare(overlays[name], charted[name], name)
        # Not made from one file: kustomize reads none of another directory.
        policies = [one["spec"] for name in ["base", "agent-sandbox"] for one in overlays[name] if one["kind"] == "NetworkPolicy"]
        if len(policies) != 2 or any(policies[0][way] != policies[1][way] for way in ["ingress", "egress"]):
            sys.exit("error: pods of base and of agent-sandbox are not let in and out alike")
        print("manifests and chart say the same")
    if executors < 3:
        sys.exit("error: pods of the executor were overlooked")


main(*sys.argv[1:])
