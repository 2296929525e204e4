"""Every error this platform tells, as a code that stays, and the tree of exceptions that carry them.

    MillstreamError                 has code, message, where, mend
    ├── Invalid                     the caller's or author's input; mended by changing it
    ├── Failed                      it was tried and did not work
    └── Unavailable                 it cannot be tried now: no space, no node, held by another, too new
        └── LogUnavailable          the log could not be written or read
    Fenced                          another owner has the log: this process must stop writing
    RecordTooLarge, UnknownTopic    refusals of the log, both Invalid

`CODES` is the one list; `docs/errors.md` is generated from it, and a code that is not in it cannot be raised.
Exit codes belong to the command line, HTTP codes to the gateway.

Longer than other modules: most of it is that list.
"""

from __future__ import annotations

import msgspec


class Code(msgspec.Struct, frozen=True):
    """One stable error code: the result status it ends in (or the exception kind), what it means, how it is mended.

    In results a code is spelled with underscores (`no_model`), on the command line with dashes (`error[no-model]`).
    """

    name: str
    kind: str
    meaning: str
    mend: str


def _codes(*codes: Code) -> dict[str, Code]:
    return {code.name: code for code in codes}


CODES: dict[str, Code] = _codes(
    # --- of requests: the kind is the status of the result ---
    Code(
        "bad_request",
        "invalid",
        "The record has an id that can be read, but is no request, or its headers contradict its value.",
        "correct what stands at the path; what a request is: millstream topics append --help",
    ),
    Code(
        "unknown_pipeline",
        "invalid",
        "No deployed release has a pipeline of this name.",
        "deploy a release that has it, or correct the name: millstream releases list",
    ),
    Code(
        "bad_parameters",
        "invalid",
        "The parameters do not fit the pipeline's types.",
        "correct the value at the path; what the pipeline takes: millstream releases show PACKAGE",
    ),
    Code(
        "no_model",
        "invalid",
        "The tenant has no trained model of this name.",
        "train one: millstream invoke TRAINING_PIPELINE --tenant TENANT",
    ),
    Code(
        "pipeline_not_in_release",
        "invalid",
        "The release that trained this tenant's model does not have this pipeline.",
        "retrain the model under the current release",
    ),
    Code(
        "reply_topic_not_allowed",
        "invalid",
        "`reply_to` names a topic that is not on the allow-list.",
        "leave reply_to out, or have the operator add the topic to reply_topics",
    ),
    Code(
        "reply_topic_unavailable",
        "failed",
        "The reply topic cannot be written, so the answer stands on ml.pipeline.output.",
        "create the topic, or leave reply_to out",
    ),
    Code(
        "conflict",
        "invalid",
        "The idempotency key was used before with other parameters.",
        "use a new idempotency_key, or send the same body",
    ),
    Code(
        "expired",
        "expired",
        "The time that the request was given (`timeout_s`, of `invoke` the option --deadline) passed before there was a result.",
        "give it more time (timeout_s; of invoke --deadline), or find what holds the queue: millstream status",
    ),
    Code("cancelled", "cancelled", "The run was cancelled.", "invoke it again"),
    Code("pipeline_raised", "failed", "Pipeline code raised an exception.", "read the traceback: millstream logs --request ID"),
    Code(
        "wrong_result",
        "failed",
        "Pipeline code returned another type than its annotation says.",
        "mend the pipeline's return value or its annotation; what it said: millstream logs --request ID",
    ),
    Code(
        "wrong_length",
        "failed",
        "A pipeline that promises rows_independent returned another number of results than rows.",
        "return one result for each row, in order; what it said: millstream logs --request ID",
    ),
    Code(
        "bad_model_files",
        "failed",
        "A training left something other than plain files for its model.",
        "let the saver write flat, regular files only",
    ),
    Code(
        "not_json",
        "failed",
        "The result holds a value that JSON cannot carry, such as NaN or infinity.",
        "return null or a string in its place; what it said: millstream logs --request ID",
    ),
    Code(
        "result_too_large",
        "failed",
        "The result is larger than a record may be.",
        "return less, or write it to storage and return where; what it said: millstream logs --request ID",
    ),
    Code(
        "model_damaged",
        "failed",
        "A file of the model differs from its signed manifest, so it was not loaded.",
        "restore the file from a backup, or retrain the model",
    ),
    Code(
        "key_unknown",
        "failed",
        "The model was signed by a key that this node does not know, so it was not loaded.",
        "where you know whose key it is: millstream keys add FILE.pub; else train the model again",
    ),
    Code(
        "key_retired",
        "failed",
        "The model was signed by a key that was retired since, so it was not loaded.",
        "train the model again; or, where the key can be trusted after all: millstream keys add FILE.pub",
    ),
    Code(
        "model_load_failed",
        "failed",
        "The model's files are intact but loading them raised.",
        "retrain the model, or mend the package's loader",
    ),
    Code(
        "release_unavailable",
        "failed",
        "The release that must answer cannot run on this node.",
        "see why and redeploy: millstream releases show PACKAGE",
    ),
    Code(
        "worker_died",
        "dead",
        "The request ended its worker process every time it ran alone.",
        "find the cause in: millstream logs --request ID; then: millstream dlq replay ID",
    ),
    Code(
        "timed_out",
        "dead",
        "The pipeline did not return within its time limit every time it ran alone.",
        "mend the pipeline or raise its timeout_s, see: millstream logs --request ID; then: millstream dlq replay ID",
    ),
    Code(
        "out_of_memory",
        "dead",
        "The worker was ended by its memory limit every time the request ran alone.",
        "let the pipeline use less, or raise node.worker_memory_bytes, see: millstream config show; then: millstream dlq replay ID",
    ),
    Code(
        "node_killed",
        "dead",
        "Every node that ran the request alone ended with it.",
        "see what the nodes said last: millstream logs --request ID; mend the pipeline, then: millstream dlq replay ID",
    ),
    Code(
        "undecodable",
        "dead",
        "The record has no id that can be read, so nobody can be answered; its bytes are on the dead-letter topic.",
        "see it: millstream dlq list; mend the sender",
    ),
    Code(
        "key_in_use",
        "invalid",
        "The key that signs cannot be retired.",
        "let another one sign first: millstream keys rotate",
    ),
    Code("bad_key", "invalid", "There is no such key, or the file holds none that can be used.", "see: millstream keys list"),
    # --- of the log ---
    Code("record_too_large", "invalid", "The record is larger than the log takes.", "send less, or put the data in storage and send where"),
    Code("unknown_topic", "invalid", "The log has no such topic.", "see the topics: millstream topics list"),
    Code("store_unavailable", "unavailable", "The store cannot be written or read now.", "see: millstream doctor"),
    Code(
        "artifacts_unavailable",
        "unavailable",
        "The place of the models' files does not answer now; models in the node's copies answer on, the others' requests wait.",
        "see: millstream doctor",
    ),
    Code(
        "artifacts_unusable",
        "unavailable",
        "The place of the models' files refuses this node, is not there, or does not keep what is written once.",
        "correct what the message names; then: millstream doctor",
    ),
    Code("log_unavailable", "unavailable", "The log cannot be written or read now.", "see: millstream doctor"),
    Code(
        "log_refused",
        "unavailable",
        "The Kafka cluster refused this client: wrong credentials, or a right is missing.",
        "correct kafka.options, or grant the right that the message names",
    ),
    Code(
        "log_not_empty",
        "unavailable",
        "The embedded log holds unanswered requests, which a node on Kafka would not see.",
        "let a node without Kafka answer them first: millstream up --kafka ''",
    ),
    Code(
        "connections_left",
        "unavailable",
        "The node of this data directory worked on a Kafka cluster, or on a shared store, and is started without it.",
        "start it with the --kafka and --store that it had; an empty value leaves them on purpose: millstream up --kafka ''",
    ),
    Code(
        "store_differs",
        "unavailable",
        "The nodes that share this log work on another store than this node.",
        "start it with the others' store: --store, --artifacts, --index and --signing-key",
    ),
    Code(
        "name_taken",
        "unavailable",
        "Another living node of this store bears the name of this one.",
        "give each node a name of its own with --name; if the other is to be replaced, stop it first",
    ),
    Code(
        "log_misfit",
        "invalid",
        "A topic on the Kafka cluster is not as the platform needs it, or cannot be made.",
        "change the topic or the cluster as the message says",
    ),
    Code(
        "no_space",
        "unavailable",
        "The disk under the data directory is full; nothing was lost, writing goes on when there is space.",
        "free space, then see: millstream doctor",
    ),
    Code(
        "data_dir_held",
        "unavailable",
        "Another node holds this data directory.",
        "stop that node, or give this one a data directory of its own with --data-dir",
    ),
    Code(
        "data_dir_too_new",
        "unavailable",
        "The data directory was written by a newer version.",
        "run the newer version, or use another --data-dir",
    ),
    Code("data_dir_unusable", "unavailable", "The data directory cannot be used.", "give a folder that you may write with --data-dir"),
    Code("metrics_port_unusable", "unavailable", "Metrics cannot be offered on their port.", "choose a free port with --metrics-port"),
    Code("no_node", "unavailable", "No node works on this data directory.", "start one: millstream up"),
    Code(
        "timeout",
        "unavailable",
        "No result came in the time given; the request stays on the log.",
        "wait longer with --timeout, or see: millstream status",
    ),
    # --- of packages, releases and environments ---
    Code("bad_package", "invalid", "The folder is not a package that can be built.", "start from one that can: millstream init NAME"),
    Code(
        "bad_name",
        "invalid",
        "A name holds characters that names may not hold, or is too long.",
        "use letters, digits, - and _, at most 64",
    ),
    Code(
        "bad_mlflow_model",
        "invalid",
        "The folder is not a model that MLflow logged, or is not one that can be taken in.",
        "name the folder with the file MLmodel, as it was logged: millstream models import FOLDER --tenant T --name M",
    ),
    Code(
        "bad_mlproject",
        "invalid",
        "The folder's MLproject file cannot be made a package of trainings.",
        "correct what the message names in MLproject",
    ),
    Code(
        "bad_requirements",
        "invalid",
        "What a model or project needs cannot be installed from an index: it names an address, a path or a package of conda.",
        "write what it needs as NAME==VERSION lines, and import the model with: --requirements FILE",
    ),
    Code("folder_exists", "invalid", "The folder is there and not empty.", "choose another name, or remove the folder"),
    Code("bad_pipeline", "invalid", "A pipeline's declaration cannot be used.", "correct the declaration that the message names"),
    Code(
        "import_failed",
        "invalid",
        "The package's modules could not be imported in their environment.",
        "mend the line that the message names, then build again",
    ),
    Code(
        "lock_unresolvable",
        "invalid",
        "The package's dependencies cannot be resolved together.",
        "loosen or correct the dependencies that the message names",
    ),
    Code("no_wheel", "invalid", "A locked dependency has no wheel for this platform.", "choose a version that ships wheels"),
    Code(
        "hash_mismatch",
        "invalid",
        "A file differs from its recorded hash; nothing of it was used.",
        "restore the file that was published, or publish a new version",
    ),
    Code("not_published", "invalid", "The index has no such release.", "build and publish it: millstream build && millstream publish"),
    Code(
        "already_published",
        "invalid",
        "This version is published with other contents; versions never change.",
        "raise the version and publish again",
    ),
    Code(
        "index_refused",
        "unavailable",
        "The index of packages refused the login, or asks for one.",
        "give the login: MILLSTREAM_INDEX_USERNAME and MILLSTREAM_INDEX_PASSWORD, or a line for its host in ~/.netrc",
    ),
    Code(
        "index_unavailable",
        "unavailable",
        "The index of packages cannot be reached, or does not answer as one.",
        "see: millstream doctor; correct --index, or wait for the server and try again",
    ),
    Code("unknown_environment", "invalid", "No such environment is on this machine.", "see: millstream environments list"),
    Code(
        "environment_in_use",
        "invalid",
        "The environment is needed by the node or used by a command, so it was not removed.",
        "see what keeps it: millstream environments list",
    ),
    Code("unknown_release", "invalid", "No such release is known here.", "see: millstream releases list"),
    Code("pipeline_name_taken", "invalid", "Another deployed package already has a pipeline of this name.", "rename the pipeline"),
    Code(
        "breaks_callers",
        "invalid",
        "The release takes something from callers of the current one: a pipeline, a parameter, values that it took, an answer's type.",
        "keep what callers use and add a pipeline of another name; or deploy with --allow-breaking",
    ),
    Code(
        "no_interpreter",
        "unavailable",
        "No Python that fits the release is on this machine.",
        "install that Python, or name it with MILLSTREAM_PYTHONS",
    ),
    Code(
        "wire_unknown",
        "unavailable",
        "The release was built with an SDK that speaks to its node in a way that this version of the platform does not know.",
        "upgrade this node to the version that built the release, or a later one",
    ),
    Code(
        "no_sandbox",
        "unavailable",
        "The setting worker.sandbox requires bubblewrap, which is not there or does not work here.",
        "install it: apt-get install --no-install-recommends --yes bubblewrap; or start without: --set worker.sandbox=auto",
    ),
    Code("no_uv", "unavailable", "The program uv is missing.", "install it: pip install uv"),
    Code("install_failed", "failed", "The environment could not be installed.", "read the reason; then deploy again"),
    Code("deploy_failed", "failed", "The release did not become ready; the old one serves on.", "read the reason; then deploy again"),
    Code(
        "deploy_timeout",
        "failed",
        "The release was not ready within the deploy timeout; the old one serves on.",
        "see: millstream releases show; then deploy again",
    ),
    # --- of what is looked up ---
    Code("unknown_run", "invalid", "No such run.", "see: millstream runs list"),
    Code("run_ended", "invalid", "The run has ended already.", "see: millstream runs show ID"),
    Code("unknown_model", "invalid", "No such model.", "see: millstream models list"),
    Code("unknown_version", "invalid", "The model has no version of this number.", "see: millstream models show TENANT.MODEL"),
    Code("version_deleted", "invalid", "The version was deleted; its files are gone.", "see: millstream models show TENANT.MODEL"),
    Code(
        "version_in_use",
        "invalid",
        "What answers, is the way back, or is pinned cannot be deleted.",
        "promote another version, or unpin it first: millstream models show TENANT.MODEL",
    ),
    Code(
        "no_previous",
        "invalid",
        "No version answered before this one, so there is nothing to go back to.",
        "name the version: millstream models promote TENANT.MODEL VERSION",
    ),
    Code(
        "too_many_pins",
        "invalid",
        "The model has as many pinned versions as a model may have.",
        "unpin one: millstream models unpin TENANT.MODEL VERSION",
    ),
    Code(
        "promotion_failed",
        "failed",
        "The promoted version did not come to answer on every node; the one before it answers on where it did not.",
        "read the reason; to go back: millstream models rollback TENANT.MODEL",
    ),
    Code(
        "mirror_unavailable",
        "unavailable",
        "MLflow, where runs and models are mirrored, cannot be written now; serving and training go on, and it catches up.",
        "see that the MLflow server answers; what waits: millstream status --json",
    ),
    Code(
        "mlflow_missing",
        "unavailable",
        "Runs and models are to be mirrored in MLflow, whose library is not installed beside this command.",
        "install it: pip install 'millstream-server[mlflow]'; or do without: --mlflow off",
    ),
    Code(
        "mirror_refused",
        "failed",
        "MLflow refused one run or model for good; it is left out there, and all that comes after it is mirrored.",
        "read the reason; what the platform knows of it: millstream models show TENANT.MODEL, or millstream runs show RUN",
    ),
    Code("unknown_dead_letter", "invalid", "No such dead letter.", "see: millstream dlq list"),
    Code("bad_config", "invalid", "Settings cannot be used; all faults are listed.", "correct them; see: millstream config show"),
    Code("bad_input", "invalid", "What was given to the command cannot be read.", "see --help"),
    Code(
        "target_not_empty",
        "invalid",
        "The store to copy to holds something else already.",
        "copy to an empty database: createdb ...; or start on that store as it is",
    ),
    Code("fenced", "unavailable", "Another owner has taken over; this process stops writing.", "start only one node on a data directory"),
    Code("internal", "failed", "The platform itself failed; this is a defect.", "run again with --debug and report it"),
)
"""Every code, by name. The mend here is the general one; an error carries the one that fits its case."""


class MillstreamError(Exception):
    """Root of what this platform raises on purpose.

    Args:
        code: a key of `CODES`.
        message: what failed, with its value, and what was expected.
        where: request, file or JSON path, or empty.
        mend: a command or step that mends this case; the code's general mend where empty.
    """

    def __init__(self, code: str, message: str, *, where: str = "", mend: str = "") -> None:
        super().__init__(message)
        self.code = CODES[code].name
        self.message = message
        self.where = where
        self.mend = mend or CODES[code].mend

    @property
    def label(self) -> str:
        """The code as the command line prints it."""
        return self.code.replace("_", "-")

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"error[{self.label}]: {self.message}{place}; mend: {self.mend}"


class Invalid(MillstreamError):
    """The caller's or author's input; mended by changing it."""


class Failed(MillstreamError):
    """It was tried and did not work."""


class Unavailable(MillstreamError):
    """It cannot be tried now."""


class LogUnavailable(Unavailable):
    """The log could not be written or read. `indeterminate`: the write may have happened all the same."""

    def __init__(
        self, message: str, *, code: str = "log_unavailable", where: str = "", mend: str = "", indeterminate: bool = False
    ) -> None:
        super().__init__(code, message, where=where, mend=mend)
        self.indeterminate = indeterminate


class Fenced(MillstreamError):
    """Another owner holds the log; this process must stop writing."""

    def __init__(self, message: str) -> None:
        super().__init__("fenced", message)


class RecordTooLarge(Invalid):
    """A record exceeds what the log takes."""

    def __init__(self, message: str, *, where: str = "") -> None:
        super().__init__("record_too_large", message, where=where)


class UnknownTopic(Invalid):
    """The log has no such topic."""

    def __init__(self, topic: str) -> None:
        super().__init__("unknown_topic", f"the log has no topic {topic}")
