"""Who asks, and what they may do: a bearer token or an API key becomes a principal, or is refused.

    authenticator   the door: a credential in, a principal out; remembers what it has verified
    issuers         who may sign tokens, as data: one YAML file
    issuer          one of them: its keys, and how its claims become a principal (claims)
    keys, jwks      keys bound to one algorithm each, from texts and files, or from a URL that is asked again
    api_keys        opaque keys, stored hashed
    revocation      what has been taken back: a watched file (lines), and Redis (redis_revocation)
    build           the parts put together from plain settings
    command         `python -m gateway revoke | apikey`

It knows no HTTP and no gRPC; both doors call :meth:`Authenticator.authenticate`.
"""

from gateway.access.authenticator import Authenticator
from gateway.access.claims import mint
from gateway.access.errors import AccessError
from gateway.access.principal import ADMIN, GENERATE, MODELS_READ, MODERATE, Principal

__all__ = ["ADMIN", "GENERATE", "MODELS_READ", "MODERATE", "AccessError", "Authenticator", "Principal", "mint"]
