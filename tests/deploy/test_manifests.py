"""The promises of deploy/k8s, held against what `kubectl kustomize` renders."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.prometheus.__main__ import TARGET, generated
from gateway.settings import Settings

from .conftest import K8S, ROOT, Document, named, of_kind, pods, render, with_components

CUSTOM = {"PodMonitor", "PrometheusRule", "ScaledObject"}
JOBS = ["demo", "publish", "rollout"]
COMPONENTS = [f"components/{each.name}" for each in sorted((K8S / "components").iterdir())]


def validate(documents: list[Document]) -> None:
    """Against the newest API's schemas, where an unknown field is an error. Custom resources have none here."""
    kubernetes_validate = importlib.import_module("kubernetes_validate")
    for each in documents:
        if each["kind"] not in CUSTOM:
            kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)


def test_overlays_are_valid(overlay: list[Document]) -> None:
    """Every document of both overlays is what the API takes, strictly, in a version that is not deprecated."""
    validate(overlay)
    assert {each["apiVersion"] for each in overlay} == {
        "v1",
        "apps/v1",
        "autoscaling/v2",
        "policy/v1",
        "networking.k8s.io/v1",
    }


@pytest.mark.parametrize("component", COMPONENTS)
def test_components_are_valid(tmp_path: Path, component: str) -> None:
    """Each component goes with an overlay, and what it adds is in the overlay's namespace: a monitor or a policy
    elsewhere would be about nothing."""
    documents = with_components(tmp_path, "cpu", component)
    validate(documents)
    assert {each["metadata"].get("namespace") for each in documents if each["kind"] != "Namespace"} == {"tidegate"}


def test_components_go_together(tmp_path: Path) -> None:
    """All at once (`s3` brings `https-egress`), and nothing is lost of any."""
    documents = with_components(tmp_path, "gpu", *(set(COMPONENTS) - {"components/https-egress"}))
    validate(documents)
    kinds = {each["kind"] for each in documents}
    assert kinds >= CUSTOM
    settings = gateway_settings(documents)
    assert {"TIDEGATE_AUDIT_FILE", "TIDEGATE_TRACING_ENDPOINT"} <= set(settings)
    args = pods(documents)["triton"]["spec"]["containers"][0]["args"]
    assert [each for each in args if each.startswith("--model-repository=s3://")]
    assert [each for each in args if each.startswith("--trace-config=")]


def test_a_cluster_gets_the_dashboards_and_the_rules(tmp_path: Path) -> None:
    """Every dashboard and every file of rules as it is in the repository, labelled for Grafana's sidecar, and small
    enough for `kubectl apply` to remember."""
    documents = with_components(tmp_path, "cpu", "components/dashboards", "components/monitors")
    shown = {
        name: content
        for each in of_kind(documents, "ConfigMap")
        if each["metadata"].get("labels", {}).get("grafana_dashboard") == "1"
        for name, content in each["data"].items()
    }
    folder = ROOT / "deploy" / "grafana" / "dashboards"
    assert shown == {each.name: each.read_text(encoding="utf-8") for each in folder.glob("*.json")}
    assert max(len(content.encode()) for content in shown.values()) < 200 << 10
    rules = {each["metadata"]["name"].removeprefix("tidegate-"): each for each in of_kind(documents, "PrometheusRule")}
    files = {each.stem: each for each in (ROOT / "deploy" / "prometheus" / "rules").glob("*.yml")}
    assert {name: each["spec"] for name, each in rules.items()} == {
        name: yaml.safe_load(each.read_text(encoding="utf-8")) for name, each in files.items()
    }
    assert TARGET.read_text(encoding="utf-8") == generated(), "python -m deploy.prometheus"


@pytest.mark.parametrize(("folder", "name"), [("demo", "demo-model"), ("publish", "publish"), ("rollout", "rollout")])
def test_jobs_are_valid(folder: str, name: str) -> None:
    """The jobs that publish the demo model, or one's own, and that roll a version out."""
    documents = render(K8S / folder)
    validate(documents)
    hardened(pods(documents)[name]["spec"])


def test_the_page_names_every_image_where_it_is_needed() -> None:
    """The overlays that docs/kubernetes.md shows leave no image at a name without a registry, for the service and for
    each job; and the page's list has every image."""
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    service, rollout = (yaml.safe_load(each) for each in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    images = {each["name"]: each for each in [*service["images"], *rollout["images"]]}
    images["tidegate/demo"] = {"name": "tidegate/demo"}
    for shown in ("overlays/cpu", "overlays/gpu", *JOBS):
        wanted = {
            container["image"].rpartition(":")[0]
            for template in pods(render(K8S / shown)).values()
            for container in template["spec"]["containers"]
        } - {"redis"}
        assert wanted <= images.keys()
        assert all(f"`{each}`" in page for each in wanted)
    for overlay in (service, rollout):
        for resource in overlay["resources"] + overlay.get("components", []):
            assert (ROOT / resource.removeprefix("../tidegate/") / "kustomization.yaml").is_file()


def test_a_version_of_ones_own_gets_into_the_claim(tmp_path: Path) -> None:
    """The page's commands copy into a folder that the job's pod may write, and publish into the repository that Triton
    serves, with a command that is."""
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"exec job/publish -- python3 (.*)", page)
    container = pods(render(K8S / "publish"))["publish"]["spec"]["containers"][0]
    mounts = {each["mountPath"] for each in container["volumeMounts"] if not each.get("readOnly")}
    arguments = line.split()
    given = dict(zip(arguments[3::2], arguments[4::2], strict=True))
    assert {"/" + each.split("/")[1] for each in given.values()} <= mounts
    triton = pods(render(K8S / "overlays" / "cpu"))["triton"]["spec"]["containers"][0]["args"]
    assert f"--model-repository={given['--repository']}" in triton
    arguments[arguments.index("--from") + 1] = str(tmp_path)
    arguments[arguments.index("--repository") + 1] = str(tmp_path / "repository")
    real = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (real.returncode, "is no version and no model" in real.stderr) == (2, True), real.stderr


def test_the_scanner_sees_all_of_it() -> None:
    """Every overlay and every job is named in it, and it takes whatever component there is."""
    script = (K8S.parent / "images" / "scan").read_text(encoding="utf-8")
    looped = {word for words in re.findall(r"for \w+ in (.*?); do", script) for word in words.split()}
    assert looped >= {each.name for each in (K8S / "overlays").iterdir()} | set(JOBS)
    jobs = {each.parent.name for each in K8S.glob("*/job.yaml")}
    assert jobs == set(JOBS)
    assert re.search(r"for component in deploy/k8s/components/\*\n?", script)


def test_a_rollout_reaches_triton_and_nothing_else(cpu: list[Document]) -> None:
    """The job's pod may speak to Triton's gRPC."""
    label = pods(render(K8S / "rollout"))["rollout"]["metadata"]["labels"]
    assert allowed(cpu, label, "triton", 8001)
    assert not allowed(cpu, label, "triton", 8000)
    assert not allowed(cpu, label, "redis", 6379)


def test_a_rollout_waits_for_every_pod_that_may_have_read_what_was_served(cpu: list[Document]) -> None:
    """The job's arguments are the command's, its name is the headless one, and it looks for longer than a pod may take
    to be ready and the names' cache to tell of it."""
    container = pods(render(K8S / "rollout"))["rollout"]["spec"]["containers"][0]
    (action,) = container["env"]
    assert container["args"][0] == f"$({action['name']})"
    arguments = [action["value"], *container["args"][1:]]
    given = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    host, port = given["--triton"].split(":")
    service = named(cpu, "Service", host)["spec"]
    assert (service["clusterIP"], service["ports"][0]["port"]) == ("None", int(port))
    probe = pods(cpu)["triton"]["spec"]["containers"][0]["startupProbe"]
    assert float(given["--follow-seconds"]) >= probe["periodSeconds"] * probe["failureThreshold"] + 30
    arguments[arguments.index("--triton") + 1] = "nobody.invalid:1"
    real = subprocess.run(
        [sys.executable, "-m", "build_engine", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (real.returncode, "nobody.invalid" in real.stderr) == (8, True), real.stderr


def test_every_pod_is_confined(overlay: list[Document]) -> None:
    """No root, no capability, no writable image, no token, no unbounded resource, no image that moves."""
    templates = pods(overlay)
    assert set(templates) == {"gateway", "triton", "redis"}
    for template in templates.values():
        hardened(template["spec"])


def hardened(spec: Document) -> None:
    assert spec["automountServiceAccountToken"] is False
    context = spec["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] >= 10000
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not any(spec.get(each) for each in ("hostNetwork", "hostPID", "hostIPC"))
    for container in spec["containers"]:
        inside = container["securityContext"]
        assert inside["readOnlyRootFilesystem"] is True
        assert inside["allowPrivilegeEscalation"] is False
        assert inside["capabilities"] == {"drop": ["ALL"]}
        for resource in ("cpu", "memory", "ephemeral-storage"):
            assert container["resources"]["requests"][resource]
            assert container["resources"]["limits"][resource]
        assert re.search(r":v?\d+\.\d+\.\d+(-alpine)?$", container["image"]), container["image"]
    for volume in spec["volumes"]:
        assert "hostPath" not in volume
        assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""})


@pytest.mark.parametrize("shipped", ["overlays/cpu", "overlays/gpu", *JOBS, *COMPONENTS])
def test_no_pod_is_evicted_for_what_it_may_write(tmp_path: Path, shipped: str) -> None:
    """What a pod's folders may hold, on disk or in memory, is below its limit: beyond it the kubelet ends the pod."""
    documents = with_components(tmp_path, "gpu", shipped) if shipped in COMPONENTS else render(K8S / shipped)
    assert pods(documents)
    for name, template in pods(documents).items():
        folders = [each["emptyDir"] for each in template["spec"]["volumes"] if "emptyDir" in each]
        (container,) = template["spec"]["containers"]
        for resource, medium in (("ephemeral-storage", ""), ("memory", "Memory")):
            held = sum(_bytes(each["sizeLimit"]) for each in folders if each.get("medium", "") == medium)
            assert held < _bytes(container["resources"]["limits"][resource]), (name, resource)


def _bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([KMGT]i)", quantity).groups()  # type: ignore[union-attr]
    return int(number) << {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40}[unit]


def test_probes_mean_something(overlay: list[Document]) -> None:
    """Every server has all three; Triton is ready with its model, and a gateway's life does not hang on Triton's."""
    templates = pods(overlay)
    (gateway,), (triton,) = (templates[name]["spec"]["containers"] for name in ("gateway", "triton"))
    assert gateway["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert triton["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"
    assert triton["readinessProbe"]["httpGet"]["path"] == "/v2/models/generate/ready"
    assert triton["startupProbe"]["httpGet"]["path"] == "/v2/health/ready"
    for template in templates.values():
        for container in template["spec"]["containers"]:
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)


def test_a_pod_has_time_to_leave(overlay: list[Document]) -> None:
    """The kubelet waits longer than the pause, the grace for running requests and the end together take; and both
    graces are as long as a request may take.
    """
    templates = pods(overlay)
    settings = gateway_settings(overlay)
    triton = templates["triton"]["spec"]["containers"][0]["args"]
    (exit_timeout,) = [int(each.split("=")[1]) for each in triton if each.startswith("--exit-timeout-secs=")]
    graces = {"gateway": int(settings["TIDEGATE_SHUTDOWN_GRACE_SECONDS"]), "triton": exit_timeout}
    for name, grace in graces.items():
        spec = templates[name]["spec"]
        pause = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert grace >= int(settings["TIDEGATE_MAX_REQUEST_TIMEOUT_SECONDS"])
        assert spec["terminationGracePeriodSeconds"] >= pause + grace + 10


def gateway_settings(documents: list[Document]) -> dict[str, str]:
    """The ConfigMap that the gateway's container names, under the name that it has."""
    (source,) = pods(documents)["gateway"]["spec"]["containers"][0]["envFrom"]
    data: dict[str, str] = named(documents, "ConfigMap", source["configMapRef"]["name"])["data"]
    return data


def test_settings_exist(overlay: list[Document]) -> None:
    """Every variable that the gateway is given is a setting, so a typing error is not silence."""
    known = {f"TIDEGATE_{name.upper()}" for name in Settings.model_fields}
    container = pods(overlay)["gateway"]["spec"]["containers"][0]
    given = set(gateway_settings(overlay)) | {each["name"] for each in container.get("env", [])}
    assert given <= known


def test_what_is_mounted_exists(overlay: list[Document]) -> None:
    """Files that settings name are mounted, config maps that are mounted exist with the keys that are asked for, and
    every volume is used.
    """
    spec = pods(overlay)["gateway"]["spec"]
    mounts = {each["name"]: each["mountPath"] for each in spec["containers"][0]["volumeMounts"]}
    assert set(mounts) == {each["name"] for each in spec["volumes"]}
    files = set()
    for volume in spec["volumes"]:
        if "configMap" in volume:
            keys = named(overlay, "ConfigMap", volume["configMap"]["name"])["data"]
        else:
            keys = {item["path"]: "" for item in volume.get("secret", {"items": []})["items"]}
        files |= {f"{mounts[volume['name']]}/{key}" for key in keys}
    named_files = {value for name, value in gateway_settings(overlay).items() if name.endswith("_FILE")}
    assert named_files <= files


def test_no_secret_is_in_the_manifests(overlay: list[Document]) -> None:
    """Secrets are named, not made: there is no Secret, and no variable holds one."""
    assert not of_kind(overlay, "Secret")
    for template in pods(overlay).values():
        for container in template["spec"]["containers"]:
            assert all("valueFrom" in each for each in container.get("env", []))


def test_selectors_and_ports_agree(overlay: list[Document]) -> None:
    """Services, budgets and spread constraints select the pods that they are about; ports that are named exist."""
    templates = pods(overlay)
    labels = {name: template["metadata"]["labels"] for name, template in templates.items()}
    ports = {
        name: {port["name"] for port in each["spec"]["containers"][0]["ports"]} for name, each in templates.items()
    }
    for name, template in templates.items():
        for constraint in template["spec"].get("topologySpreadConstraints", []):
            assert constraint["labelSelector"]["matchLabels"].items() <= labels[name].items()
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = template["spec"]["containers"][0][kind]
            where = probe.get("httpGet") or probe.get("tcpSocket")
            assert where is None or where["port"] in ports[name]
    for service in of_kind(overlay, "Service"):
        name = service["metadata"]["name"]
        assert service["spec"]["selector"].items() <= labels[name].items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports[name]
    for workload in of_kind(overlay, "Deployment", "StatefulSet"):
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels[workload["metadata"]["name"]].items()
    for budget in of_kind(overlay, "PodDisruptionBudget"):
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels[budget["metadata"]["name"]].items()


def test_the_gateway_asks_where_triton_listens(overlay: list[Document]) -> None:
    """The address is the headless service, so that every pod is seen, and its port is gRPC's."""
    host, port = gateway_settings(overlay)["TIDEGATE_TRITON_URL"].split(":")
    service = named(overlay, "Service", host)["spec"]
    assert service["clusterIP"] == "None"
    assert [(each["port"], each["targetPort"]) for each in service["ports"]] == [(int(port), "grpc")]


def allowed(documents: list[Document], source: dict[str, str], target: str, port: int) -> bool:
    """Whether a pod with these labels in the same namespace may reach ``port`` of the workload ``target``."""
    spec = pods(documents)[target]["spec"]["containers"][0]
    names: dict[Any, int] = {each["name"]: each["containerPort"] for each in spec["ports"]}
    labels = pods(documents)[target]["metadata"]["labels"]
    return _side(documents, labels, "ingress", "from", source, port, names) and _side(
        documents, source, "egress", "to", labels, port, names
    )


def _side(
    documents: list[Document],
    subject: dict[str, str],
    side: str,
    peer: str,
    other: dict[str, str],
    port: int,
    names: dict[Any, int],
) -> bool:
    for policy in of_kind(documents, "NetworkPolicy"):
        if not policy["spec"]["podSelector"].get("matchLabels", {}).items() <= subject.items():
            continue
        for rule in policy["spec"].get(side, []):
            for who in rule[peer]:
                if who.get("podSelector", {}).get("matchLabels", {"": ""}).items() <= other.items() and any(
                    names.get(each["port"], each["port"]) == port for each in rule["ports"]
                ):
                    return True
    return False


def test_only_what_must_talk_may(overlay: list[Document]) -> None:
    """Everything is denied but gateway to Triton's gRPC and to Redis (and what the rollout's pod needs)."""
    deny = named(overlay, "NetworkPolicy", "deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    label = {name: template["metadata"]["labels"] for name, template in pods(overlay).items()}
    assert allowed(overlay, label["gateway"], "triton", 8001)
    assert allowed(overlay, label["gateway"], "redis", 6379)
    assert not allowed(overlay, label["gateway"], "triton", 8000)
    assert not allowed(overlay, label["redis"], "triton", 8001)
    assert not allowed(overlay, label["triton"], "redis", 6379)
    assert not allowed(overlay, label["triton"], "gateway", 8080)
    assert not allowed(overlay, {"app.kubernetes.io/name": "stranger"}, "triton", 8001)


def test_metrics_are_for_prometheus(tmp_path: Path, overlay: list[Document]) -> None:
    """Who names tenants and what they cost is on a port of its own, in no service, for the monitoring namespace only;
    and that is where the monitor asks."""
    port = int(gateway_settings(overlay)["TIDEGATE_METRICS_PORT"])
    container = pods(overlay)["gateway"]["spec"]["containers"][0]
    (name,) = [each["name"] for each in container["ports"] if each["containerPort"] == port]
    assert name not in [each["targetPort"] for each in named(overlay, "Service", "gateway")["spec"]["ports"]]
    doors = {
        each["port"]: [
            rule["from"]
            for rule in named(overlay, "NetworkPolicy", "gateway")["spec"]["ingress"]
            if each in rule["ports"]
        ]
        for rule in named(overlay, "NetworkPolicy", "gateway")["spec"]["ingress"]
        for each in rule["ports"]
    }
    inside, outside = (
        [[{"namespaceSelector": {"matchLabels": {f"tidegate.dev/{each}": "true"}}}]]
        for each in ("monitoring", "ingress")
    )
    assert doors == {"http": outside, "grpc": outside, name: inside}
    documents = with_components(tmp_path, "cpu", "components/monitors")
    for pod, ports in (("gateway", [name]), ("triton", ["metrics"])):
        endpoints = named(documents, "PodMonitor", pod)["spec"]["podMetricsEndpoints"]
        assert [each["port"] for each in endpoints] == ports


def test_records_are_written_where_they_stay(tmp_path: Path) -> None:
    """Each gateway writes into a folder of its pod's name on the claim; no other setting is lost."""
    documents = with_components(tmp_path, "cpu", "components/records")
    settings, before = gateway_settings(documents), gateway_settings(render(K8S / "overlays" / "cpu"))
    added = {name: Path(settings[name]).parent for name in settings.keys() - before.keys()}
    assert {name: settings[name] for name in before} == before
    assert set(added) == {"TIDEGATE_AUDIT_FILE", "TIDEGATE_FEEDBACK_FILE"}
    (container,) = pods(documents)["gateway"]["spec"]["containers"]
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "records"]
    assert {str(each) for each in added.values()} == {mount["mountPath"]}
    assert mount["subPathExpr"] == f"$({container['env'][0]['name']})"
    assert named(documents, "PersistentVolumeClaim", "records")["spec"]["accessModes"] == ["ReadWriteMany"]


def test_traces_leave_the_cluster(tmp_path: Path, cpu: list[Document]) -> None:
    """Gateways and Triton are told of one collector, and both may reach its namespace, on the port that they use."""
    documents = with_components(tmp_path, "cpu", "components/tracing")
    settings = gateway_settings(documents)
    endpoint = settings["TIDEGATE_TRACING_ENDPOINT"]
    assert {f"TIDEGATE_{name.upper()}" for name in Settings.model_fields} >= settings.keys()
    args, plain = (pods(each)["triton"]["spec"]["containers"][0]["args"] for each in (documents, cpu))
    assert args[: len(plain)] == plain
    assert f"--trace-config=opentelemetry,url={endpoint}/v1/traces" in args
    policy = named(documents, "NetworkPolicy", "tracing")["spec"]
    (selected,) = policy["podSelector"]["matchExpressions"]
    assert selected["values"] == ["gateway", "triton"]
    (rule,) = policy["egress"]
    assert [each["port"] for each in rule["ports"]] == [int(endpoint.rpartition(":")[2])]
    assert rule["to"] == [{"namespaceSelector": {"matchLabels": {"tidegate.dev/tracing": "true"}}}]


def test_https_egress_is_the_internet_only(tmp_path: Path) -> None:
    """Neither a pod, a service, a node nor the API server's private address, nor the cloud's metadata."""
    documents = with_components(tmp_path, "cpu", "components/https-egress")
    (rule,) = named(documents, "NetworkPolicy", "https-egress")["spec"]["egress"]
    (block,) = [each["ipBlock"] for each in rule["to"]]
    closed = [ip_network(each) for each in block["except"]]
    for address in ("10.96.0.1", "172.20.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254"):
        assert any(ip_address(address) in each for each in closed), address
    assert not any(ip_address("52.218.0.1") in each for each in closed)


def test_gpu_pods_ask_for_a_gpu() -> None:
    """Only the GPU overlay does, and its pods go where GPUs are and give theirs back before a new one starts."""
    for name, gpus in (("cpu", None), ("gpu", "1")):
        documents = render(K8S / "overlays" / name)
        spec = pods(documents)["triton"]["spec"]
        assert spec["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") == gpus
        assert bool(spec.get("nodeSelector")) == bool(spec.get("tolerations")) == bool(gpus)
        surge = named(documents, "Deployment", "triton")["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
        assert surge == (0 if gpus else 1)


def test_the_autoscaler_reads_what_the_adapter_makes(cpu: list[Document]) -> None:
    """One name, one model, no average over models; and the deployments leave their replicas to it."""
    scaler = named(cpu, "HorizontalPodAutoscaler", "triton")["spec"]
    (metric,) = scaler["metrics"]
    values = yaml.safe_load((K8S / "prometheus-adapter" / "values.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    model = gateway_settings(cpu)["TIDEGATE_MODEL"]
    assert rule["metricsQuery"].count(f'model="{model}"') == 2
    assert "avg by" not in rule["metricsQuery"]
    for deployment in of_kind(cpu, "Deployment"):
        assert "replicas" not in deployment["spec"]


def test_keda_is_the_same_autoscaler(tmp_path: Path, cpu: list[Document]) -> None:
    """The alternative has the same bounds, target, behaviour and query, and takes the place of the first."""
    documents = with_components(tmp_path, "cpu", "components/keda")
    assert [each["metadata"]["name"] for each in of_kind(documents, "HorizontalPodAutoscaler")] == ["gateway"]
    first = named(cpu, "HorizontalPodAutoscaler", "triton")["spec"]
    other = named(documents, "ScaledObject", "triton")["spec"]
    assert (other["minReplicaCount"], other["maxReplicaCount"]) == (first["minReplicas"], first["maxReplicas"])
    assert other["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == first["behavior"]
    (trigger,) = other["triggers"]
    assert trigger["metadata"]["threshold"] == first["metrics"][0]["pods"]["target"]["averageValue"]
    values = yaml.safe_load((K8S / "prometheus-adapter" / "values.yaml").read_text())
    series = re.findall(r"(\w+)\{", values["rules"]["custom"][0]["metricsQuery"])
    assert re.findall(r"(\w+)\{", trigger["metadata"]["query"]) == series


def test_s3_takes_the_place_of_the_volume(tmp_path: Path) -> None:
    """Nothing of the claim is left, and Triton's other arguments stay."""
    documents = with_components(tmp_path, "cpu", "components/s3")
    assert not of_kind(documents, "PersistentVolumeClaim")
    spec = pods(documents)["triton"]["spec"]
    assert not any("persistentVolumeClaim" in each for each in spec["volumes"])
    assert {each["name"] for each in spec["containers"][0]["volumeMounts"]} == {
        each["name"] for each in spec["volumes"]
    }
    base = pods(render(K8S / "overlays" / "cpu"))["triton"]["spec"]["containers"][0]["args"]
    changed = set(base) ^ set(spec["containers"][0]["args"])
    assert {each.partition("=")[0] for each in changed} == {"--model-repository"}
