"""Settings: what stands over what, and that every fault is told at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream_server import config
from millstream_server.core.errors import Invalid


def faults(data_dir: Path, flags: dict[str, object] | None = None, environ: dict[str, str] | None = None) -> str:
    """The message of the fault that loading ends in."""
    with pytest.raises(Invalid) as caught:
        config.load(data_dir, flags or {}, environ=environ or {})
    assert caught.value.code == "bad_config"
    return caught.value.message


def test_a_setting_that_nobody_gave_has_its_default(tmp_path: Path) -> None:
    """Without file, variables and flags all origins are the default, but for the folder."""
    settings = config.load(tmp_path, {}, environ={})

    assert settings.node.max_batch_size == 500
    assert {origin for name, origin in settings.origins.items() if name != "data_dir"} == {"default"}
    assert set(settings.origins) == {"data_dir", *config.names()}


def test_flags_stand_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    """Of three sources that give one setting the strongest is in force, and the origin names it."""
    (tmp_path / "millstream.toml").write_text("[node]\nworkers = 2\nmax_attempts = 2\nspare_workers = 2\n")

    settings = config.load(
        tmp_path,
        {"node.workers": 4, "node.role": None},
        environ={"MILLSTREAM_NODE_WORKERS": "3", "MILLSTREAM_NODE_MAX_ATTEMPTS": "3"},
    )

    assert (settings.node.workers, settings.node.max_attempts, settings.node.spare_workers) == (4, 3, 2)
    assert settings.origins["node.workers"] == "flag --workers"
    assert settings.origins["node.max_attempts"] == "environment MILLSTREAM_NODE_MAX_ATTEMPTS"
    assert settings.origins["node.spare_workers"] == f"file {tmp_path / 'millstream.toml'}"
    assert settings.origins["node.role"] == "default"


def test_a_value_of_set_is_told_as_that(tmp_path: Path) -> None:
    """Whoever wrote --set node.workers=0 wrote no --workers; the same in the origin of a good one."""
    told = faults(tmp_path, {"node.workers": config.Said("0"), "node.role": "king"})
    settings = config.load(tmp_path, {"node.workers": config.Said("3")}, environ={})

    assert "node.workers = '0' (flag --set node.workers): expected `int` >= 1" in told
    assert "node.role = 'king' (flag --role)" in told
    assert (settings.node.workers, settings.origins["node.workers"]) == (3, "flag --set node.workers")


def test_the_data_directory_comes_from_the_flag_then_the_environment_then_home(tmp_path: Path) -> None:
    """A folder is made absolute, and a tilde is the user's home."""
    by_flag = config.load(tmp_path, {}, environ={"MILLSTREAM_DATA_DIR": "/elsewhere"})
    by_variable = config.load(None, {}, environ={"MILLSTREAM_DATA_DIR": str(tmp_path / "x")})
    by_default = config.load(None, {}, environ={})

    assert by_flag.data_dir == tmp_path
    assert by_variable.data_dir == tmp_path / "x"
    assert by_default.data_dir == Path.home() / ".millstream"


def test_every_fault_of_every_source_is_told_together(tmp_path: Path) -> None:
    """One message names the unknown keys, the wrong types and the values out of range of all three sources."""
    (tmp_path / "millstream.toml").write_text('[node]\nworkres = 2\nmax_attempts = "many"\n[lok]\nx = 1\n')

    message = faults(tmp_path, {"node.role": "king"}, {"MILLSTREAM_NODE_WORKERS": "0", "MILLSTREAM_LOGBOOK_LEVL": "info"})

    assert "6 faults" in message
    assert "no setting is called node.workres; did you mean node.workers" in message
    assert "no section or setting is called lok; did you mean log" in message
    assert "node.max_attempts = 'many'" in message
    assert "node.role = 'king' (flag --role)" in message
    assert "node.workers = '0' (environment MILLSTREAM_NODE_WORKERS): expected `int` >= 1" in message
    assert "did you mean MILLSTREAM_LOGBOOK_LEVEL" in message


@pytest.mark.parametrize(
    "text", ["[node\n", "node = 3\n", 'data_dir = "/x"\n', "\x00", "[node]\nworkers = true\n", "[node]\nattempt_timeout_s = nan\n"]
)
def test_a_settings_file_that_cannot_be_used_is_a_fault_that_names_it(tmp_path: Path, text: str) -> None:
    """Broken TOML, a value in the place of a section and a setting that cannot stand there are told with the file."""
    (tmp_path / "millstream.toml").write_text(text)

    assert str(tmp_path / "millstream.toml") in faults(tmp_path)


def test_a_settings_file_that_is_not_text_is_a_fault(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are told as such."""
    (tmp_path / "millstream.toml").write_bytes(b"\xff\xfe[node]")

    assert "cannot be read" in faults(tmp_path)


def test_settings_that_contradict_each_other_are_faults(tmp_path: Path) -> None:
    """A batch larger than the queue and a record larger than the node's bound could never work."""
    message = faults(tmp_path, {"node.max_queued_requests": 10, "node.max_queued_bytes": "1MiB"})

    assert "a full batch could never be gathered" in message
    assert "the largest request would not fit" in message


def test_a_variable_of_another_program_with_our_prefix_is_left_alone(tmp_path: Path) -> None:
    """Only what looks like a misspelled setting is a fault."""
    config.load(tmp_path, {}, environ={"MILLSTREAM_COLOUR_OF_THE_DOOR": "green"})


@pytest.mark.parametrize(("text", "value"), [("1024", 1024), ("64MiB", 64 << 20), ("2 GiB", 2 << 30), ("5MB", 5_000_000)])
def test_sizes_take_a_unit(tmp_path: Path, text: str, value: int) -> None:
    """A size is a number of bytes, or a number with a binary or decimal unit."""
    settings = config.load(tmp_path, {}, environ={"MILLSTREAM_NODE_WORKER_MEMORY_BYTES": text})

    assert settings.node.worker_memory_bytes == value


def test_lists_are_words_as_a_shell_parts_them_or_a_json_list(tmp_path: Path) -> None:
    """Both spellings of a list give the same words, and the short variable names are in use."""
    words = config.load(tmp_path, {}, environ={"MILLSTREAM_INDEX_ARGUMENTS": "--index-url 'http://x y'"})
    json = config.load(tmp_path, {}, environ={"MILLSTREAM_INDEX_ARGUMENTS": '["--index-url", "http://x y"]'})

    assert words.environments.index_arguments == json.environments.index_arguments == ("--index-url", "http://x y")


def test_a_list_of_paths_is_parted_as_in_path(tmp_path: Path) -> None:
    """Interpreters are named as folders are in PATH, so that a path may hold a space."""
    settings = config.load(tmp_path, {}, environ={"MILLSTREAM_PYTHONS": "/a/python3.11:/b c/python:"})

    assert settings.environments.pythons == ("/a/python3.11", "/b c/python")


@given(
    st.dictionaries(
        st.sampled_from([config.variable(name) for name in config.names()]), st.text(max_size=30).filter(lambda t: "\0" not in t)
    )
)
def test_whatever_text_the_variables_hold_loading_gives_settings_or_the_list_of_faults(environ: dict[str, str]) -> None:
    """No text in a variable ends in anything but settings or bad_config."""
    try:
        settings = config.load(Path("/nowhere"), {}, environ=environ)
    except Invalid as error:
        code = error.code
    else:
        code = ""
        assert all(settings.origins[name] != "default" for name in config.names() if config.variable(name) in environ)

    assert code in ("", "bad_config")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://ms:s3cret@db/millstream", "postgresql://ms:(hidden)@db/millstream"),
        ("postgresql://ms:a/b@c:d@db:5432/millstream", "postgresql://ms:(hidden)@db:5432/millstream"),
        (
            "postgresql://db/millstream?user=ms&password=s3cret&sslmode=require",
            "postgresql://db/millstream?user=ms&password=(hidden)&sslmode=require",
        ),
        ("postgresql://ms@db/millstream", "postgresql://ms@db/millstream"),
    ],
)
def test_the_password_in_a_stores_address_is_not_shown(tmp_path: Path, address: str, shown: str) -> None:
    """Whatever the password holds, people see where the store is and not how to get in."""
    settings = config.load(tmp_path, {"shared.store": address}, environ={})

    assert config.shown(settings, "shared.store") == shown
    assert config.value_of(settings, "shared.store") == address


@pytest.mark.parametrize(
    ("setting", "said", "shown"),
    [
        ("shared.index", "https://me:a%2Fb@host/simple/", "https://me:(hidden)@host/simple/"),
        ("shared.index", "https://token@host/simple/", "https://(hidden)@host/simple/"),
        ("shared.index", "/folder/of@wheels", "/folder/of@wheels"),
        ("shared.index_upload", "https://me:word@host/", "https://me:(hidden)@host/"),
        ("environments.indexes", ("https://me:word@host/simple/", "https://b/"), ("https://me:(hidden)@host/simple/", "https://b/")),
        ("environments.index_arguments", ("--index", "x=https://token@host/"), ("--index", "x=https://(hidden)@host/")),
        ("environments.index_password", "word", "(hidden)"),
        ("environments.index_password", "", ""),
    ],
)
def test_logins_of_indexes_are_not_shown(tmp_path: Path, setting: str, said: object, shown: object) -> None:
    """An address may hold a password, or a token alone; a folder's name stays."""
    section, name = setting.split(".")
    text = json_text(said)
    settings = config.load(tmp_path, {}, environ={config.variable(f"{section}.{name}"): text})

    assert config.value_of(settings, setting) == said
    assert config.shown(settings, setting) == shown


@pytest.mark.parametrize(
    ("setting", "said"),
    [("shared.index", "ftp://me:word@host/simple/"), ("environments.indexes", "/a/folder"), ("environments.indexes", "ours=https://host/")],
)
def test_an_index_that_is_no_address_is_a_fault(tmp_path: Path, setting: str, said: str) -> None:
    """A word that is forgotten before an address must not make a folder of it in silence."""
    with pytest.raises(Invalid, match="https://") as refused:
        config.load(tmp_path, {}, environ={config.variable(setting): said})

    assert setting in refused.value.message
    assert "word@" not in refused.value.message


def test_a_password_of_the_wrong_type_is_not_shown_with_its_fault(tmp_path: Path) -> None:
    """The fault says the setting and what was expected."""
    (tmp_path / "millstream.toml").write_text("[environments]\nindex_password = 736251\n")

    with pytest.raises(Invalid, match=r"environments\.index_password = \(hidden\)") as refused:
        config.load(tmp_path, {}, environ={})

    assert "736251" not in refused.value.message


def json_text(said: object) -> str:
    """A value as a variable holds it."""
    return json.dumps(said) if isinstance(said, tuple) else str(said)


def test_secret_options_of_kafka_are_not_shown(tmp_path: Path) -> None:
    """Passwords, secrets and keys are left out of what people see; what they need to find a fault stays."""
    options = {"sasl.username": "ms", "sasl.password": "x", "ssl.key.password": "x", "ssl.key.pem": "x", "ssl.key.location": "/k"}
    options["sasl.oauthbearer.client.secret"] = "x"
    settings = config.load(tmp_path, {"kafka.options": json.dumps(options)}, environ={})

    said = config.shown(settings, "kafka.options")

    assert isinstance(said, dict)
    assert {name for name, value in said.items() if value == "x"} == set()
    assert (said["sasl.username"], said["ssl.key.location"]) == ("ms", "/k")


def test_credentials_of_a_bucket_are_not_shown(tmp_path: Path) -> None:
    """Neither where they are in force nor where they cannot be used; commands on the data directory find them all the same."""
    said = {"shared.artifacts": "s3://models", "s3.access_key_id": "AK", "s3.secret_access_key": "s3cret", "s3.session_token": "t0ken"}
    settings = config.load(tmp_path, said, environ={})
    (tmp_path / "millstream.toml").write_text("[s3]\nsecret_access_key = 12345\n")

    assert [config.shown(settings, name) for name in said] == ["s3://models", "AK", "(hidden)", "(hidden)"]
    assert config.connections(settings) == said
    assert "12345" not in faults(tmp_path)


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"shared.artifacts": "gs://models"}, "shared.artifacts"),
        ({"shared.artifacts": "s3://"}, "shared.artifacts"),
        ({"shared.artifacts": "s3://user:password@models"}, "shared.artifacts"),
        ({"s3.endpoint": "store.example.org:9000"}, "s3.endpoint"),
        ({"s3.timeout_s": "0"}, "s3.timeout_s"),
        ({"s3.cache_bytes": "-1"}, "s3.cache_bytes"),
    ],
)
def test_a_bucket_that_cannot_be_one_is_told(tmp_path: Path, said: dict[str, object], named: str) -> None:
    """Before anything is asked of it."""
    assert f"{named} = " in faults(tmp_path, said)
