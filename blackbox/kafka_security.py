"""What may stand before a broker's CLIENT listener: passwords with rights, and encryption. Brokers among themselves stay as they are.

guard = passwords({"admin": "secret", "caller": "word"}, rulers=["admin"])
broker = Broker(folder, properties=guard.properties)
AdminClient({"bootstrap.servers": broker.bootstrap, **guard.client("admin")}).create_acls(...)
"""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from blackbox import java

_KEYSTORE_PASSWORD = "of the tests"  # noqa: S105 - guards nothing: the key is made for one test


@dataclass(frozen=True, slots=True)
class Guard:
    """Server settings for `Broker(properties=...)`, and what clients need to come in.

    Attributes:
        users: passwords by user name; empty where everybody may come in.
        certificate: file of the certificate (PEM) that the broker shows, where it encrypts.
    """

    properties: dict[str, str]
    users: dict[str, str] = field(default_factory=dict)
    certificate: Path | None = None

    def client(self, user: str | None = None, password: str | None = None) -> dict[str, str]:
        """librdkafka settings, beside `bootstrap.servers`, of a client.

        Args:
            user: one of `users`; None for a client that says no name.
            password: another one than the user's own, to be refused.
        """
        settings = {"security.protocol": ("SASL_" if user else "") + ("SSL" if self.certificate else "PLAINTEXT")}
        if self.certificate:
            settings["ssl.ca.location"] = str(self.certificate)
        if user:
            settings |= {"sasl.mechanism": "PLAIN", "sasl.username": user, "sasl.password": password or self.users[user]}
        return settings


def passwords(users: Mapping[str, str], rulers: Collection[str] = ()) -> Guard:
    """Clients say a user's name and password (SASL PLAIN); all but `rulers` may do only what ACLs of the broker grant them."""
    logins = " ".join(f'user_{name}="{password}"' for name, password in users.items())
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    # The brokers among themselves come without a name.
    superusers = ";".join(f"User:{name}" for name in ("ANONYMOUS", *rulers))
    return Guard(
        {
            "listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.client.plain.sasl.jaas.config": f"{module} required {logins};",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": superusers,
        },
        users=dict(users),
    )


def encryption(folder: Path, within: Guard | None = None) -> Guard:
    """TLS with a certificate for 127.0.0.1 and localhost, made in `folder` by Java's keytool; around the passwords of `within`, if given.

    Raises:
        KafkaNotPrepared: Java is missing.
        subprocess.CalledProcessError: keytool failed.
    """
    keystore, certificate = folder / "broker.p12", folder / "broker.pem"
    store = ("-keystore", str(keystore), "-storepass", _KEYSTORE_PASSWORD, "-alias", "broker")
    names = ("-dname", "CN=localhost", "-ext", "san=ip:127.0.0.1,dns:localhost")
    for words in (
        ("-genkeypair", *store, *names, "-keyalg", "EC", "-storetype", "PKCS12", "-validity", "7"),
        ("-exportcert", *store, "-rfc", "-file", str(certificate)),
    ):
        subprocess.run([java.program("keytool"), *words], capture_output=True, text=True, timeout=60, check=True)
    protocol = "SASL_SSL" if within else "SSL"
    properties = {
        **(within.properties if within else {}),
        "listener.security.protocol.map": f"CLIENT:{protocol},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "listener.name.client.ssl.keystore.location": str(keystore),
        "listener.name.client.ssl.keystore.password": _KEYSTORE_PASSWORD,
        "listener.name.client.ssl.keystore.type": "PKCS12",
    }
    return Guard(properties, within.users if within else {}, certificate)
