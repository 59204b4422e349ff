"""Validates a Compose file, as podman-compose prints it, with the schema of the Compose specification. A part of scripts/ci/manifests.

check-compose.py FILE
"""

import copy
import json
import pathlib
import sys
import sysconfig

import jsonschema
import yaml

schema = pathlib.Path(sysconfig.get_paths()["purelib"], "compose/config/compose_spec.json")
validator = jsonschema.Draft7Validator(json.loads(schema.read_text()))
file = yaml.safe_load(pathlib.Path(sys.argv[1]).read_text())
# Younger than that schema.
assert file.pop("name") == "sandbox-executor"
problems = [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(file)]
if problems:
    sys.exit("\n".join(problems))

# Positive control: a word that nobody knows is found.
wrong = copy.deepcopy(file)
wrong["services"]["executor"]["helthcheck"] = wrong["services"]["executor"].pop("healthcheck", {})
assert not validator.is_valid(wrong), "the schema overlooks an unknown word"

for name in ["control-plane", "executor"]:
    service = file["services"][name]
    assert service["cap_drop"] == ["ALL"] and service["read_only"] and "no-new-privileges" in service["security_opt"], name
    assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
    assert service["mem_limit"] and service["pids_limit"], name
    assert list(service["networks"]) == ["sandbox-network"], name
print("compose.yaml is what the Compose specification allows:", ", ".join(file["services"]))
