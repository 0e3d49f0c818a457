"""Tokens not made here, or made for something else: each is refused, none fails.

reliability.md S1 to S3 and S5, and section 3.1 (JWT libraries): 50,000 of them.
"""

import base64
import hashlib
import hmac
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.access.house import House, bearer
from tests.access.keep import Keep
from ullage.accounts import queries
from ullage.accounts.jwt import SigningKey, TokenInvalid, new_signing_key
from ullage.registry.queries.identity import registry_id

IN_PROCESS = 50_000
OVER_HTTP = 300
SEED = 20261123

Payload = dict[str, Any]


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def dumped(value: object) -> bytes:
    """JSON, also of what is none: NaN, and numbers written as no float would be."""
    return json.dumps(value).replace('"@1e400"', "1e400").replace('"@huge"', "9" * 400).encode()


def es256(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """RFC 7518, section 3.4: r and s, 32 bytes each."""
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class Forger:
    """Makes bad tokens for one registry, of which it knows everything but how to make good ones.

    It is even given the signing key, to sign claims that the registry itself never would.
    """

    def __init__(self, key: SigningKey, audience: str, now: int) -> None:
        self.key = key
        self.private = key.private
        self.public_pem = self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.stranger = new_signing_key()
        self.rsa = rsa.generate_private_key(65537, 2048)
        self.good: Payload = {
            "iss": "ullage",
            "sub": "",
            "aud": audience,
            "iat": now,
            "nbf": now,
            "exp": now + 600,
            "jti": "00",
            "gen": 0,
            "use": "access",
            "access": [{"type": "repository", "name": "*", "actions": ["pull", "delete"]}],
        }
        self.now = now

    def header(self, **more: Any) -> dict[str, Any]:
        return {"alg": "ES256", "typ": "JWT", "kid": self.key.kid} | more

    def signed(self, payload: object, **more: Any) -> str:
        """As the registry signs."""
        return self.with_signature(
            self.header(**more), payload, lambda text: es256(self.private, text)
        )

    def with_signature(
        self, header: object, payload: object, sign: Callable[[bytes], bytes]
    ) -> str:
        signed = f"{b64(dumped(header))}.{b64(dumped(payload))}"
        return f"{signed}.{b64(sign(signed.encode()))}"

    # -- the tricks; each takes a random source and gives one token

    def no_algorithm(self, chance: random.Random) -> str:
        name = chance.choice(["none", "None", "NONE", "nOnE", "", None, "none "])
        signature = chance.choice([b"", b"\0" * 64, chance.randbytes(64)])
        return self.with_signature(self.header(alg=name), self.good, lambda _: signature)

    def public_key_as_secret(self, chance: random.Random) -> str:
        """CVE-2022-29217, CVE-2017-11424."""
        digest = chance.choice([hashlib.sha256, hashlib.sha384, hashlib.sha512])
        der = self.private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        secret = chance.choice(
            [self.public_pem, self.public_pem.strip(), der, self.key.kid.encode(), b""]
        )
        name = {"sha256": "HS256", "sha384": "HS384", "sha512": "HS512"}[digest().name]
        return self.with_signature(
            self.header(alg=chance.choice([name, name, "ES256"])),
            self.good,
            lambda text: hmac.new(secret, text, digest).digest(),
        )

    def other_algorithm(self, chance: random.Random) -> str:
        name = chance.choice(
            ["RS256", "PS256", "RS512", "ES384", "ES512", "ES256K", "EdDSA", "es256", "HS256", "x"]
        )
        sign = chance.choice(
            [
                lambda text: self.rsa.sign(text, padding.PKCS1v15(), hashes.SHA256()),
                lambda text: es256(self.private, text),
            ]
        )
        return self.with_signature(self.header(alg=name), self.good, sign)

    def broken_signature(self, chance: random.Random) -> str:
        head, payload, signature = self.signed(self.good).split(".")
        match chance.randrange(6):
            case 0:
                signature = ""
            case 1:
                signature = signature[: chance.randrange(len(signature))]
            case 2:
                # Not the last character: some of its bits mean nothing.
                place = chance.randrange(len(signature) - 1)
                other = "A" if signature[place] != "A" else "B"
                signature = signature[:place] + other + signature[place + 1 :]
            case 3:
                signature = b64(b"\0" * 64)
            case 4:
                signature = b64(chance.randbytes(chance.randrange(200)))
            case _:
                payload = b64(dumped(self.good | {"sub": "admin"}))
        return f"{head}.{payload}.{signature}"

    def mutilated(self, chance: random.Random) -> str:
        token = self.signed(self.good)
        match chance.randrange(6):
            case 0:
                return token[: chance.randrange(len(token) - 2)]
            case 1:
                return token + "." + chance.choice(["", "x", token])
            case 2:
                return token.replace(".", chance.choice(["", "..", ",", " "]), 1)
            case 3:
                return "".join(chance.choice("ey.J-_=\u00e9\0 {}") for _ in range(60))
            case 4:
                return chance.choice(["", ".", "..", "...", "e30.e30.e30", "\udc80", "a" * 20_000])
            case _:
                place = chance.randrange(len(token) - 90)
                return token[:place] + chance.choice("!\n\x00 é") + token[place + 1 :]

    def wrong_claim(self, chance: random.Random) -> str:
        """S3: claims of every type, and really signed."""
        claim = chance.choice(["exp", "nbf", "iat", "aud", "iss", "gen", "use", "jti", "sub"])
        value = chance.choice(BAD[claim])
        payload = {k: v for k, v in self.good.items() if k != claim}
        if value is not MISSING:
            payload[claim] = value
        return self.signed(payload)

    def wrong_time(self, chance: random.Random) -> str:
        late = chance.choice(
            [
                {"exp": self.now - 61 - chance.randrange(10**9)},
                {"nbf": self.now + 61 + chance.randrange(10**9)},
                {"exp": 0, "nbf": 0},
                {"exp": -1},
            ]
        )
        return self.signed(self.good | late)

    def wrong_use(self, chance: random.Random) -> str:
        return self.signed(self.good | {"use": "refresh"})

    def of_another_registry(self, chance: random.Random) -> str:
        """S2: signed by another registry's key, under its kid or under ours; or for another."""
        other = self.stranger.private
        match chance.randrange(3):
            case 0:
                return self.signed(self.good | {"aud": chance.randbytes(16).hex()})
            case 1:
                header = self.header(kid=self.stranger.kid)
            case _:
                header = self.header()
        return self.with_signature(header, self.good, lambda text: es256(other, text))

    def wrong_kid(self, chance: random.Random) -> str:
        """CVE-2025-24976: kid is looked up, and is no path, address, query or program."""
        return self.signed(self.good, kid=chance.choice(BAD_KIDS))

    def own_key_in_header(self, chance: random.Random) -> str:
        """CVE-2025-24976: the header brings, or names, the key that fits the signature."""
        numbers = self.stranger.private.public_key().public_numbers()
        jwk = {
            "kty": "EC",
            "crv": "P-256",
            "x": b64(numbers.x.to_bytes(32, "big")),
            "y": b64(numbers.y.to_bytes(32, "big")),
        }
        more: dict[str, Any] = chance.choice(
            [
                {"jwk": jwk},
                {"jku": "http://127.0.0.1:1/keys.json"},
                {"x5u": "http://127.0.0.1:1/certificate.pem"},
                {"x5c": [base64.b64encode(self.public_pem).decode()]},
                {"jwk": jwk, "kid": None},
                {"crit": ["exp"]},
                {"b64": False, "crit": ["b64"]},
            ]
        )
        return self.with_signature(
            self.header(**more), self.good, lambda text: es256(self.stranger.private, text)
        )

    def deep(self, chance: random.Random) -> str:
        """CVE-2024-27454: JSON that is nested, or long, or no object."""
        match chance.randrange(4):
            case 0:
                text = b"[" * 1500
            case 1:
                text = b'{"a":' * 1100 + b"1" + b"}" * 1100
            case 2:
                text = chance.choice([b"null", b"1", b'"x"', b"[]", b"{}", b"", b"\xff", b"nan"])
            case _:
                text = b'{"exp":' + b"9" * 4400 + b"}"
        if chance.random() < 0.3:
            signed = f"{b64(text)}.{b64(dumped(self.good))}"
        else:
            signed = f"{b64(dumped(self.header()))}.{b64(text)}"
        return f"{signed}.{b64(es256(self.private, signed.encode()))}"

    def tokens(self, count: int) -> Iterator[tuple[str, str]]:
        """`count` tokens, each with the name of its trick."""
        chance = random.Random(SEED)
        tricks = [
            self.no_algorithm,
            self.public_key_as_secret,
            self.other_algorithm,
            self.broken_signature,
            self.mutilated,
            self.wrong_claim,
            self.wrong_claim,
            self.wrong_time,
            self.wrong_use,
            self.of_another_registry,
            self.wrong_kid,
            self.own_key_in_header,
            self.deep,
        ]
        for number in range(count):
            trick = tricks[number % len(tricks)]
            yield trick.__name__, trick(chance)


MISSING = object()
NUMBERS_BAD: list[Any] = [
    MISSING,
    None,
    "1",
    "",
    True,
    False,
    [],
    [1],
    {},
    {"a": 1},
    float("nan"),
    float("inf"),
    float("-inf"),
    "@1e400",
    "@huge",
    "4102444800",
]
TEXTS_BAD: list[Any] = [MISSING, None, 1, 1.5, True, [], {}, ["x"], "", "x", "\0", "ullage "]
BAD: dict[str, list[Any]] = {
    "exp": [*NUMBERS_BAD, -1, -1e300, 1e300],
    "nbf": [*NUMBERS_BAD, 1e300, 10**15],
    "iat": [*NUMBERS_BAD, 1e300, -1e300],
    "aud": [*TEXTS_BAD, [[]], [None], {"a": "b"}],
    "iss": [*TEXTS_BAD, "Ullage", ["ullage"]],
    "gen": [MISSING, None, "0", 0.0, True, False, [], {}, "@1e400", float("nan")],
    "use": [*TEXTS_BAD, "refresh", ["access"], "Access"],
    "jti": [MISSING, None],
    "sub": [MISSING, None, 1, True, [], {}, ["admin"]],
}
BAD_KIDS: list[Any] = [
    None,
    "",
    0,
    True,
    [],
    {},
    ["a"],
    "../../../../dev/null",
    "/etc/passwd",
    "file:///dev/null",
    "http://127.0.0.1:1/key",
    "' OR 1=1 --",
    "x' UNION SELECT 'key",
    "|id",
    "$(id)",
    "\0",
    "a" * 5000,
    "é",
]


def forger_for(keep: Keep) -> Forger:
    """Knows the key and the audience of a registry."""
    now = keep.clock()
    [first, *_] = keep.registry.read(lambda tx: queries.signing_keys(tx, now))
    audience = keep.registry.write(lambda tx: registry_id(tx, "unused"))
    return Forger(SigningKey(*first), audience, int(now.timestamp()))


def test_what_the_forger_starts_from_is_a_good_token(keep: Keep) -> None:
    """Else the tests below would show nothing."""
    forger = forger_for(keep)
    assert keep.takes(forger.signed(forger.good)) is not None


@pytest.mark.slow
def test_fifty_thousand_bad_tokens_are_refused_and_nothing_else_happens(keep: Keep) -> None:
    """Each raises TokenInvalid: no other exception, and none gets in."""
    accepted, failed = [], []
    for trick, token in forger_for(keep).tokens(IN_PROCESS):
        try:
            keep.door.bearer(token)
            accepted.append((trick, token))
        except TokenInvalid:
            continue
        except Exception as error:  # noqa: BLE001 - whatever it is, it would have been a 500
            failed.append((trick, type(error).__name__, token[:200]))
    assert not failed[:10]
    assert not accepted[:10]


@pytest.mark.parametrize(
    "access",
    [
        None,
        1,
        "repository:*:*",
        {},
        {"type": "repository", "name": "*", "actions": ["pull"]},
        [None, 1, "x", []],
        [{"type": "repository", "name": "*", "actions": "pull"}],
        [{"type": "repository", "name": ["*"], "actions": ["pull"]}],
        [{"type": "repository", "name": "*", "actions": [["pull"], {}, 1, None]}],
        [{"type": ["repository"], "name": "*", "actions": ["pull"]}],
        [{"type": "repository", "name": "../*", "actions": ["pull"]}],
        [{"type": "repository", "name": "*\n", "actions": ["pull"]}],
        [{"Type": "repository", "Name": "*", "Actions": ["pull"]}],
    ],
)
def test_rights_that_cannot_be_read_are_none(keep: Keep, access: object) -> None:
    """S3: even from a token with the right signature."""
    forger = forger_for(keep)
    principal = keep.takes(forger.signed(forger.good | {"access": access}))
    assert principal is not None
    assert not any(grant.actions for grant in principal.grants)


def test_a_leeway_of_a_minute_is_all_there_is(keep: Keep) -> None:
    """S3: clocks may differ by at most 60 s."""
    forger = forger_for(keep)
    now = forger.now
    for claims, good in (
        ({"exp": now - 60}, True),
        ({"exp": now - 61}, False),
        ({"nbf": now + 60}, True),
        ({"nbf": now + 61}, False),
    ):
        assert (keep.takes(forger.signed(forger.good | claims)) is not None) is good, claims


def test_hundreds_of_bad_tokens_over_http_are_a_401_each(house: House) -> None:
    """None is a 500: a bad token never gets further than the guard."""
    forger = Forger(new_signing_key(), "0" * 32, 1_790_000_000)
    statuses = {}
    for trick, token in forger.tokens(OVER_HTTP):
        # What cannot be written into a header at all is not sent.
        header = "".join(c for c in token[:8000] if " " < c < "\x7f")
        status = house.status("GET", "/v2/", bearer(header))
        if status != 401:
            statuses[trick] = status
    assert not statuses
