"""Who calls, by what others vouch for: tokens made by PyJWT, and client certificates."""

import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import jwt
import pytest
from certificates import Authority, Pair, address, uri
from conversation import ask, collect
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from mesh import BINARIES, ROOT, Mesh
from service import Service
from weft.gateway.v1 import gateway_pb2 as weft
from weft.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

ISSUER = "https://issuer.example"
CONFIG = (ROOT / "deploy" / "config" / "gateway.toml").read_text()
LIST_MODELS = "weft.gateway.v1.GatewayService/ListModels"


def peers(mesh: Mesh) -> dict[str, str]:
    """Where the services of the mesh are."""
    return {f"{peer}__address": f"http://{mesh.address(peer)}" for peer in ("tokenizer", "inference", "safety")}


def reason(error: grpc.RpcError) -> str:
    """The `reason` of a refusal's `ErrorInfo`."""
    status = rpc_status.from_call(error)
    assert status is not None, error
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details), error
    return info.reason


def fetch_models(base: str, context: ssl.SSLContext | None = None, **headers: str) -> tuple[int, Any]:
    """What `GET /v1/models` says."""
    request = urllib.request.Request(f"{base}/v1/models", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


class Issuer:
    """An issuer of tokens with a key for each algorithm, as PyJWT knows them."""

    def __init__(self) -> None:
        self.keys = {
            "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "ES256": ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate(),
        }

    def key_set(self) -> str:
        """The public halves."""
        algorithms = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
        public = {name: algorithms[name].to_jwk(key.public_key(), as_dict=True) for name, key in self.keys.items()}
        return json.dumps({"keys": [{**key, "kid": name, "use": "sig"} for name, key in public.items()]})

    def token(self, name: str, *, key: Any = None, algorithm: str | None = None, **changes: Any) -> str:
        """A token for `acme` whose bearer may list models, signed by the key of this name unless another is given."""
        claims = {"iss": ISSUER, "aud": "weft", "sub": "robot", "tenant": "acme", "exp": int(time.time()) + 600}
        claims |= {"scope": "list"} | changes
        signing = self.keys[name] if algorithm is None else key
        return jwt.encode(claims, signing, algorithm=algorithm or name, headers={"kid": name})


@dataclass
class Door:
    """A gateway, as its callers reach it."""

    issuer: Issuer
    stub: GatewayServiceStub
    http: str

    def list_models(self, token: str) -> weft.ListModelsResponse:
        """Asks with a token."""
        metadata = [("authorization", f"Bearer {token}")]
        return self.stub.ListModels(weft.ListModelsRequest(), timeout=60, metadata=metadata)

    def refusal(self, token: str) -> str:
        """Why a token is not taken."""
        with pytest.raises(grpc.RpcError) as caught:
            self.list_models(token)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        return reason(caught.value)


@pytest.fixture(scope="module")
def door(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A gateway that takes tokens of an issuer."""
    folder = tmp_path_factory.mktemp("tokens")
    issuer = Issuer()
    (folder / "jwks.json").write_text(issuer.key_set())
    config = folder / "gateway.toml"
    config.write_text(
        f'{CONFIG}\n[auth.jwt]\nfile = "{folder / "jwks.json"}"\nissuer = "{ISSUER}"\naudiences = ["weft"]\n'
        f'[[auth.jwt.scopes]]\nname = "list"\nmethods = ["{LIST_MODELS}"]\n'
    )
    service = Service(BINARIES, "gateway", folder / "log", config, auth__mode="required", **peers(mesh))
    with service as channel:
        yield Door(issuer, GatewayServiceStub(channel), f"http://{service.http}")


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_token_lets_its_bearer_in_by_both_apis(door: Door, algorithm: str) -> None:
    token = door.issuer.token(algorithm)
    assert len(door.list_models(token).models) == 1
    code, models = fetch_models(door.http, Authorization=f"Bearer {token}")
    assert (code, len(models["data"])) == (200, 1)
    with pytest.raises(grpc.RpcError) as caught:
        list(door.stub.Chat(ask("hello"), timeout=60, metadata=[("authorization", f"Bearer {token}")]))
    assert (caught.value.code(), reason(caught.value)) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "METHOD_NOT_ALLOWED",
    )


def test_a_token_that_is_not_the_issuers_is_refused(door: Door) -> None:
    issuer = door.issuer
    public = json.loads(issuer.key_set())["keys"][2]["x"]
    for wrong in (
        issuer.token("EdDSA", algorithm="none"),
        # What everybody can read, as a shared secret.
        issuer.token("EdDSA", algorithm="HS256", key=public),
        Issuer().token("RS256"),
        issuer.token("ES256", aud="elsewhere"),
        issuer.token("ES256", iss="https://else.example"),
        issuer.token("ES256", nbf=int(time.time()) + 600),
    ):
        assert door.refusal(wrong) == "CREDENTIALS_INVALID"
    assert door.refusal(issuer.token("EdDSA", exp=int(time.time()) - 600)) == "CREDENTIALS_EXPIRED"
    code, told = fetch_models(door.http, Authorization="Bearer a.b.c")
    assert (code, told["error"]["code"]) == (401, "credentials_invalid")


@dataclass
class Locked:
    """A gateway that asks for client certificates, and who has one."""

    service: Service
    authority: Authority
    callers: dict[str, Pair]

    def stub(self, caller: str) -> GatewayServiceStub:
        """The gateway, over a connection with a certificate."""
        key, certificate = self.callers[caller].read()
        credentials = grpc.ssl_channel_credentials(self.authority.certificate.read_bytes(), key, certificate)
        return GatewayServiceStub(grpc.secure_channel(self.service.address, credentials))

    def models(self, caller: str) -> tuple[int, Any]:
        """What the HTTP API says over a connection with a certificate."""
        pair = self.callers[caller]
        context = ssl.create_default_context(cafile=str(self.authority.certificate))
        context.load_cert_chain(pair.certificate, pair.key)
        return fetch_models(f"https://{self.service.http}", context)


@pytest.fixture(scope="module")
def locked(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    """A gateway that knows `batch` (which may not chat) and `chat` by their certificates, and nobody else."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder, "authority")
    callers = {name: authority.vouch(name, uri(f"spiffe://example/{name}")) for name in ("chat", "batch", "other")}
    stranger = Authority(folder, "stranger").vouch("forged", uri("spiffe://example/chat"))
    own = authority.vouch("gateway", address("127.0.0.1"))
    config, limits = folder / "gateway.toml", folder / "quota.toml"
    limits.write_text('[[limits]]\ntenant = "acme"\ntokens = 10000\n')
    config.write_text(
        f'{CONFIG}\n[server.tls]\ncertificate = "{own.certificate}"\nkey = "{own.key}"\n'
        f'client_ca = "{authority.certificate}"\n[auth.certificates]\nunlisted = false\n'
        '[[auth.certificates.names]]\nname = "spiffe://example/chat"\ntenant = "acme"\n'
        f'[[auth.certificates.names]]\nname = "spiffe://example/batch"\nmethods = ["{LIST_MODELS}"]\n'
    )
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes(), *callers["chat"].read())
    settings = peers(mesh) | {"auth__mode": "required", "quota__file": str(limits), "quota__window": "1h"}
    service = Service(BINARIES, "gateway", folder / "log", config, credentials, **settings)
    with service:
        yield Locked(service, authority, callers | {"forged": stranger})


def test_a_certificate_says_who_calls_and_what_it_may(locked: Locked) -> None:
    answer = collect(locked.stub("chat").Chat(ask("hello", max_tokens=4), timeout=60))
    usage = answer.finished.usage
    row = 'weft_gateway_quota_used{tenant="acme",model="smollm2-135m-instruct",limit="tokens"}'
    used = [line.split()[-1] for line in locked.service.page("/metrics").splitlines() if line.startswith(row)]
    assert used == [str(usage.prompt_tokens + usage.completion_tokens)], "it is charged to its tenant"

    batch = locked.stub("batch")
    assert len(batch.ListModels(weft.ListModelsRequest(), timeout=60).models) == 1
    with pytest.raises(grpc.RpcError) as caught:
        list(batch.Chat(ask("hello"), timeout=60))
    assert (caught.value.code(), reason(caught.value)) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "METHOD_NOT_ALLOWED",
    )
    assert locked.models("batch")[0] == 200


def test_a_certificate_that_is_not_listed_or_not_vouched_for_is_refused(locked: Locked) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        locked.stub("other").ListModels(weft.ListModelsRequest(), timeout=60)
    assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")
    code, told = locked.models("other")
    assert (code, told["error"]["code"]) == (401, "credentials_invalid")
    with pytest.raises(grpc.RpcError) as caught:
        locked.stub("forged").ListModels(weft.ListModelsRequest(), timeout=60)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE, "there is no connection"
