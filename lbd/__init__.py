"""lbd: a layer-4 load balancer for Kubernetes that owns virtual IPs and relays in one hop to Pods."""

from lbd import form

__version__ = "0.1.0"

form.choose()
