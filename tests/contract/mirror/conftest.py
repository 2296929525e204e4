"""Opens the mirror that the contract is about: embedded, and an MLflow server on PostgreSQL and S3; a plain MLflow client looks at both.

Servers, helpers and databases take seconds to start, so each kind has one for all tests, and each test a model of its own name.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from millstream_server.adapters.mlflow import MlflowMirror
from mirror_cases import STORE, Place, shown_run

from blackbox.mlflow import MlflowServer, PlainClient
from blackbox.postgres import Postgres
from blackbox.s3 import S3Gateway

KINDS = ("embedded", "server")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server: its tables in PostgreSQL, its artifacts on S3, to which it alone has the login."""
    with Postgres() as postgres, S3Gateway() as gateway:
        backend = postgres.create_database().replace("postgresql:", "postgresql+psycopg:", 1)
        settings = gateway.environment | {"MLFLOW_S3_ENDPOINT_URL": gateway.endpoint}
        with MlflowServer(backend, tmp_path_factory.mktemp("mlflow-server"), gateway.url("mlflow"), settings) as running:
            yield running


@pytest.fixture(scope="session", params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One kind of MLflow, for all tests."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = request.getfixturevalue("server").url if request.param == "server" else f"sqlite:///{folder}/mlflow.db"
    mirror = MlflowMirror(uri if request.param == "server" else "", folder, STORE, copies_bytes=1 << 20)
    mirror.write_run(shown_run("first"))  # so that the plain client does not make the same tables at the same time
    client = PlainClient(uri)
    yield Place(request.param, uri, folder, mirror, client)
    client.close()
    mirror.close()


@pytest.fixture(scope="session")
def tenants() -> Iterator[str]:
    return (f"t{number}" for number in itertools.count(1))


@pytest.fixture
def tenant(tenants: Iterator[str]) -> str:
    """A tenant that no other test has."""
    return next(tenants)
