"""What happened: Prometheus series and JSON log lines."""

from gateway.telemetry.logs import LOGGER, configure_logging
from gateway.telemetry.telemetry import Telemetry

__all__ = ["LOGGER", "Telemetry", "configure_logging"]
