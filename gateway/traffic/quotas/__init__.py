"""How much a tenant may use: requests a second, streams at once, tokens a minute and a day."""

from gateway.traffic.quotas.config import QuotaError, QuotaFile, read_quotas
from gateway.traffic.quotas.lease import Lease
from gateway.traffic.quotas.opening import open_quotas
from gateway.traffic.quotas.quotas import Quotas

__all__ = ["Lease", "QuotaError", "QuotaFile", "Quotas", "open_quotas", "read_quotas"]
