"""Each kind of value for Kubernetes: what is taken, what it means, and the exact sentence about what is not."""

from __future__ import annotations

import ipaddress
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbd.config import kubernetes_scalars as scalars
from lbd.config.unusable import first_unusable, why_unusable
from lbd.model.kubernetes import AddressRange

LABEL = "a" * 63
SUBDOMAIN = ".".join([LABEL, LABEL, LABEL, "a" * 61])


@pytest.mark.parametrize(
    ("written", "first", "last"),
    [
        ("172.16.101.150-172.16.101.200", "172.16.101.150", "172.16.101.200"),
        ("172.16.101.7-172.16.101.7", "172.16.101.7", "172.16.101.7"),
        ("172.16.101.7", "172.16.101.7", "172.16.101.7"),
        ("172.16.102.0/24", "172.16.102.1", "172.16.102.254"),
        ("172.16.102.0/30", "172.16.102.1", "172.16.102.2"),
        ("172.16.102.0/31", "172.16.102.0", "172.16.102.1"),
        ("172.16.102.0/32", "172.16.102.0", "172.16.102.0"),
        ("0.0.0.0/0", "0.0.0.1", "255.255.255.254"),
        ("fd00:101::100-fd00:101::1ff", "fd00:101::100", "fd00:101::1ff"),
        ("FD00:101:0::A", "fd00:101::a", "fd00:101::a"),
        ("fd00:101::/64", "fd00:101::1", "fd00:101::ffff:ffff:ffff:ffff"),
        ("fd00:101::/126", "fd00:101::1", "fd00:101::3"),
        ("fd00:101::/127", "fd00:101::", "fd00:101::1"),
        ("fd00:101::5/128", "fd00:101::5", "fd00:101::5"),
        ("fd00::-fd00::ffff:ffff:ffff:ffff", "fd00::", "fd00::ffff:ffff:ffff:ffff"),
    ],
)
def test_range_means_its_addresses(written, first, last):
    assert scalars.address_range(written) == AddressRange(first, last)


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        (7, '7 must be text: put it in quotes ("7") if text is meant'),
        (["a"], "must be text, not a list"),
        ("", '"" is not an IP address'),
        ("web", '"web" is not an IP address: names are not looked up'),
        ("172.16.101.200-172.16.101.150", "is reversed: write 172.16.101.150-172.16.101.200"),
        ("172.16.101.1-fd00::1", "has an IPv4 and an IPv6 address at its ends"),
        ("172.16.101.150-200", "has half an address at its end: write 172.16.101.150-172.16.101.200"),
        ("172.16.101.150-", '"" is not an IP address'),
        ("-172.16.101.150", '"" is not an IP address'),
        ("1.0.0.1-1.0.0.2-1.0.0.3", '"1.0.0.2-1.0.0.3" is not an IP address'),
        ("172.16.101.150 - 172.16.101.200", "has blanks: write it without them"),
        ("172.16.102.7/24", "has bits set behind its prefix: write 172.16.102.0/24 or 172.16.102.7/32"),
        ("172.16.102.0/33", '"33" is not a prefix length (0-32)'),
        ("172.16.102.0/24-172.16.103.0/24", '"172.16.102.0/24" is not an IP address: write it without a prefix length'),
        ("fd00::1%eth0", "has a zone id"),
        ("::ffff:10.0.0.1", "is an IPv4 address in IPv6 form: write 10.0.0.1"),
        ("fd00::/63", "has more than 2^64 addresses: a range is at most as large as an IPv6 /64"),
        ("fd00::-fd00:0:0:1::", "has more than 2^64 addresses: a range is at most as large as an IPv6 /64"),
    ],
)
def test_what_is_no_range_is_refused_with_what_to_write(written, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        scalars.address_range(written)


TAKEN = {
    scalars.namespace: ["a", "0", "kube-system", LABEL],
    scalars.object_name: ["lbd", "lbd.group-a", SUBDOMAIN],
    scalars.load_balancer_class: ["lbd", "lbd.io/service-engine", "a/B_c.d", f"{SUBDOMAIN}/{LABEL}"],
    scalars.label_key: ["app", "App_1", "app.kubernetes.io/name", f"{SUBDOMAIN}/{LABEL}"],
    scalars.label_value: ["", "web", "Web_1.x-y", LABEL],
    scalars.kubeconfig: ["/etc/lbd/kubeconfig", "/a b", "/" + "ü" * 2047],
    scalars.context: ["prod", "kubernetes-admin@kubernetes", "arn:aws:eks:x:1:cluster/y", "c" * 253],
    scalars.priority: [0, 1000],
}


@pytest.mark.parametrize(
    ("reader", "written"), [(reader, written) for reader, values in TAKEN.items() for written in values]
)
def test_good_value_is_taken_as_it_is(reader, written):
    assert reader(written) == written


NO_CLASS = "is not a load balancer class: write it like lbd.io/service-engine"
NO_LABEL_VALUE = (
    "is not the value of a label: use at most 63 letters, digits, '.', '_' and '-', with a letter or digit at both ends"
)
NO_NAMESPACE = "is not a namespace: use 1-63 lower case letters, digits and '-', with a letter or digit at both ends"
NO_OBJECT_NAME = (
    "is not the name of an object: use 1-253 lower case letters, digits, '-' and '.', with a letter or digit at both "
    "ends and beside each '.'"
)
REFUSED = {
    (scalars.namespace, NO_NAMESPACE): ["", "A", "a.b", "-a", "a-", "a_b", LABEL + "a", "ü", "a\n"],
    (scalars.object_name, NO_OBJECT_NAME): ["", "A", ".a", "a.", "a..b", "a.-b", SUBDOMAIN + "a"],
    (scalars.load_balancer_class, NO_CLASS): [
        *("", "/", "a/", "/a", "a/b/c", "A.io/x", "lbd.io/", "-a", "a b", "x\n"),
        *(LABEL + "a", SUBDOMAIN + "a/x"),
    ],
    (scalars.label_key, "is not the key of a label: write it like app or app.kubernetes.io/name"): [
        *("", "a b", "/a", "a/", "_a", LABEL + "a"),
    ],
    (scalars.label_value, NO_LABEL_VALUE): ["a b", "-a", "a-", "a/b", LABEL + "a"],
    (scalars.kubeconfig, "is not an absolute path of a file"): ["", "k", "./k", "~/k", "/", "/etc/", "/a\nb"],
    (scalars.kubeconfig, "is too long for a path (at most 4095 bytes)"): ["/" + "ü" * 2048],
    (scalars.context, "is not the name of a context (1-253 printable characters)"): ["", "a\nb", "c" * 254],
    (scalars.namespace, 'must be text: put it in quotes ("1")'): [1],
    (scalars.label_value, 'must be text: put it in quotes ("true")'): [True],
    (scalars.priority, "is not a priority (0-1000)"): [1001, -1, True, "x"],
    (scalars.lease_duration, "is not a whole number of seconds, which is what a Lease takes"): ["1500ms"],
    (scalars.lease_duration, "is too short (at least 1s)"): ["999ms"],
    (scalars.lease_duration, "is too long (at most 10m)"): ["10m1s"],
    (scalars.profile_type, "; did you mean network?"): ["networking"],
}


@pytest.mark.parametrize(
    ("reader", "written", "sentence"),
    [(reader, written, sentence) for (reader, sentence), values in REFUSED.items() for written in values],
)
def test_bad_value_is_refused_with_a_sentence(reader, written, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        reader(written)


@pytest.mark.parametrize(
    ("written", "address", "reason"),
    [
        ("127.0.0.1", "127.0.0.1", "a loopback address"),
        ("126.0.0.0-128.0.0.0", "127.0.0.0", "a loopback address"),
        ("127.255.255.255-128.0.0.1", "127.255.255.255", "a loopback address"),
        ("169.253.255.255-169.254.0.0", "169.254.0.0", "a link-local address"),
        ("223.255.255.0-224.0.0.0", "224.0.0.0", "a multicast address"),
        ("239.255.255.255-240.0.0.0", "239.255.255.255", "a multicast address"),
        ("255.255.255.254-255.255.255.255", "255.255.255.255", "the broadcast address"),
        ("0.0.0.0", "0.0.0.0", "the unspecified address"),
        ("0.255.255.255-1.0.0.1", "0.255.255.255", "an address of 0.0.0.0/8 (this network)"),
        ("0.0.0.0/0", "0.0.0.1", "an address of 0.0.0.0/8 (this network)"),
        ("::", "::", "the unspecified address"),
        ("::/64", "::1", "a loopback address"),
        ("::2-::ffff:0:0:0", "::ffff:0:0", "an IPv4 address in IPv6 form"),
        ("fe80::/64", "fe80::1", "a link-local address"),
        ("fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff-fe80::", "fe80::", "a link-local address"),
        ("ff02::1", "ff02::1", "a multicast address"),
        ("feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff-ff00::", "ff00::", "a multicast address"),
    ],
)
def test_range_with_an_address_that_no_machine_can_have_names_the_first_one(written, address, reason):
    found = first_unusable(scalars.address_range(written), allow_loopback=False)
    assert found is not None
    assert (str(ipaddress.ip_address(found[0])), found[1]) == (str(ipaddress.ip_address(address)), reason)


@pytest.mark.parametrize(
    "written",
    [
        "1.0.0.0-126.255.255.255",
        "128.0.0.0-169.253.255.255",
        "169.255.0.0-223.255.255.255",
        "240.0.0.0-255.255.255.254",
    ],
)
def test_range_just_beside_unusable_addresses_is_good(written):
    assert first_unusable(scalars.address_range(written), allow_loopback=False) is None


def test_loopback_is_good_where_it_is_allowed_and_nothing_else_is():
    assert first_unusable(scalars.address_range("127.0.0.0/8"), allow_loopback=True) is None
    assert first_unusable(scalars.address_range("126.0.0.0-169.254.0.1"), allow_loopback=True) is not None


near_the_edges = st.sampled_from(
    [0, 1 << 24, 127 << 24, 128 << 24, 0xA9FE0000, 0xA9FF0000, 224 << 24, 240 << 24, 2**32 - 9]
)


@given(near_the_edges, st.integers(-8, 8), st.integers(0, 16), st.booleans())
def test_range_is_refused_exactly_if_one_of_its_addresses_is(edge, offset, size, allow_loopback):
    first = max(edge + offset, 0)
    last = min(first + size, 2**32 - 1)
    addresses = [str(ipaddress.IPv4Address(number)) for number in range(first, last + 1)]
    refused = [one for one in addresses if why_unusable(one, allow_loopback)]
    found = first_unusable(AddressRange(addresses[0], addresses[-1]), allow_loopback)
    assert (found is not None) == bool(refused)
    if found:
        assert found[0] in refused


def test_a_64_costs_nothing_to_read_and_judge():
    started_s = time.process_time()
    for _ in range(100):
        assert first_unusable(scalars.address_range("fd00:101::/64"), allow_loopback=False) is None
    assert time.process_time() - started_s < 1
