"""Model and engine: what Triton and the generation backend do with what they are given."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from deploy.grafana.board import board, section
from deploy.grafana.panels import lines, listing, number
from deploy.grafana.queries import MODEL, limit, or_none, quantile, quantiles, rate, threshold, total

INTER_TOKEN = "tidegate_inter_token_latency_seconds"
INFO = f"tidegate_model_info{{{MODEL}}}"
PENDING, WASTED = threshold("pending_requests"), threshold("wasted_tokens_most")


def model() -> dashboard.Dashboard:
    """The dashboard."""
    each = board("tidegate-model", "Model and engine", "What the engine does, and whether it is full.", "model")
    for add in (_numbers, _tokens, _batch, _triton, _machine):
        add(each)
    return each


def kv_used(by: str = "") -> str:
    """Share of the KV cache that running sequences have reserved."""
    free, cache = (total(f"tidegate_backend_kv_tokens_{kind}", by, MODEL) for kind in ("free", "capacity"))
    return f"1 - {free} / {cache}"


def _numbers(each: dashboard.Dashboard) -> None:
    unproven = f'max by (model, model_version) (tidegate_model_info{{{MODEL}, accuracy_gate="missing"}} > 0)'
    answering = f"sum by (model, model_version) (increase(tidegate_answers_total{{{MODEL}}}[1h])) > 0"
    section(
        each,
        "",
        number(
            "Generated",
            "Tokens a second, sampled by all engines.",
            "none",
            rate("tidegate_backend_tokens_total", where=f'{MODEL}, kind="completion"'),
        ),
        number(
            "Between tokens, p99",
            "While streaming.",
            "s",
            quantile(INTER_TOKEN, 0.99, where=MODEL),
            steps=[(0.1, "orange"), (0.2, "red")],
        ),
        number(
            "Waiting",
            "Requests that wait because the batch has no room.",
            "none",
            total("nv_inference_pending_request_count", where=MODEL),
            steps=[(1, "orange"), (PENDING + 1, "red")],
            alert="QueueGrowing",
        ),
        number(
            "KV cache used",
            "Reserved by running sequences.",
            "percentunit",
            kv_used(),
            steps=[(0.8, "orange"), (0.95, "red")],
        ),
        number(
            "Wasted",
            "Share of the computed tokens that nobody waited for, over a quarter of an hour.",
            "percentunit",
            f"max(tidegate:wasted_tokens:ratio15m{{{MODEL}}})",
            steps=[(WASTED / 2, "orange"), (WASTED, "red")],
            alert="WastedTokensHigh",
        ),
        number(
            "Without accuracy gate",
            "Versions that answered in the last hour and were never compared with fp32 on unseen text.",
            "none",
            or_none(f"count({unproven} and {answering})"),
            steps=[(1, "red")],
            alert="AccuracyGateMissing",
        ),
    )


def _tokens(each: dashboard.Dashboard) -> None:
    section(
        each,
        "Tokens",
        lines(
            "Tokens a second",
            "Fed (prompt) and sampled (completion), as the engine counts them.",
            "none",
            (rate("tidegate_backend_tokens_total", "kind", MODEL), "{{kind}}"),
            stacked=True,
        ),
        lines(
            "Between tokens",
            "Two streamed texts, each of one token unless the detokeniser or the policy had to wait.",
            "s",
            *quantiles(INTER_TOKEN, where=MODEL),
        ),
        lines(
            "Wasted, a second",
            "Tokens fed and sampled for requests that were left, those that were streamed, and such requests.",
            "none",
            (rate("tidegate_backend_wasted_tokens_total", where=MODEL), "tokens"),
            (rate("tidegate_wasted_tokens_total", where=MODEL), "tokens already streamed"),
            (rate("tidegate_backend_cancelled_total", where=MODEL), "requests"),
            alert="WastedTokensHigh",
        ),
    )


def _batch(each: dashboard.Dashboard) -> None:
    section(
        each,
        "Batch and cache",
        lines(
            "Batch",
            "Rows of the last step, and sequences that hold room in the cache.",
            "none",
            (total("tidegate_backend_step_rows", "model", MODEL), "rows of a step, {{model}}"),
            (total("tidegate_backend_running_sequences", "model", MODEL), "sequences, {{model}}"),
        ),
        lines(
            "KV cache",
            "Tokens that running sequences have reserved, of all there are.",
            "percentunit",
            (kv_used("model"), "{{model}}"),
            most=1,
        ),
        lines(
            "Engine errors, a second",
            "Steps or rows that the engine failed; none is normal.",
            "none",
            (rate("tidegate_backend_engine_errors_total", "model, version", MODEL), "{{model}} version {{version}}"),
        ),
    )


def _triton(each: dashboard.Dashboard) -> None:
    queued, ended = (rate(f"nv_inference_{what}", "model", MODEL) for what in ("queue_duration_us", "request_success"))
    section(
        each,
        "Triton",
        lines(
            "Queue",
            "Requests that wait for room in the batch.",
            "none",
            (total("nv_inference_pending_request_count", "model", MODEL), "{{model}}"),
            limit("pending_requests"),
            alert="QueueGrowing",
        ),
        lines(
            "Time in the queue",
            "Of a request that ended well, on average.",
            "s",
            (f"{queued} / {ended} / 1e6", "{{model}}"),
        ),
        lines(
            "First response",
            "From the call to Triton to its first response: queue and prefill.",
            "s",
            *quantiles("tidegate_triton_first_response_seconds", where=MODEL),
            alert="FirstTokenSlow",
        ),
        lines(
            "Last response",
            "From the call to Triton to its last response.",
            "s",
            *quantiles("tidegate_triton_duration_seconds", where=MODEL),
        ),
        lines(
            "Requests in Triton",
            "Ended well, or failed and why.",
            "reqps",
            (rate("nv_inference_request_success", where=MODEL), "success"),
            (rate("nv_inference_request_failure", "reason", MODEL), "{{reason}}"),
        ),
        listing(
            "Versions",
            "What has answered since the gateways started, and whether its accuracy was proven.",
            f"max by (model, model_version, precision, accuracy_gate) ({INFO})",
            "model",
            "model_version",
            "precision",
            "accuracy_gate",
            alert="AccuracyGateMissing",
        ),
    )


def _machine(each: dashboard.Dashboard) -> None:
    section(
        each,
        "Machines of Triton (GPU: empty where there is none)",
        lines(
            "CPU",
            "Of the whole machine, all cores.",
            "percentunit",
            ("nv_cpu_utilization", "{{instance}}"),
            width=12,
            most=1,
        ),
        lines(
            "Memory",
            "Of the whole machine, in use by all processes.",
            "bytes",
            ("nv_cpu_memory_used_bytes", "used, {{instance}}"),
            ("nv_cpu_memory_total_bytes", "all, {{instance}}"),
            width=12,
        ),
        lines(
            "GPU utilisation",
            "Share of time that a kernel ran.",
            "percentunit",
            ("nv_gpu_utilization", "{{gpu_uuid}}"),
            width=12,
            most=1,
            alert="GpuIdleUnderLoad",
        ),
        lines(
            "GPU memory",
            "In use, by all processes.",
            "percentunit",
            ("nv_gpu_memory_used_bytes / nv_gpu_memory_total_bytes", "{{gpu_uuid}}"),
            limit("gpu_memory_most"),
            width=12,
            most=1,
            alert="GpuMemoryHigh",
        ),
    )
