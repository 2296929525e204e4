"""The log on Kafka 4: the port `core.log` over confluent-kafka (librdkafka).

Called by `app.py` where the setting `kafka.bootstrap` names a cluster. Topics, groups, transactions and fencing are the
broker's; what is ours is the order of steps around a change of assignment (`claims`), the settings with their reasons
(`settings`), and the translation of errors (`errors`). Invariant: a consumer is touched by the thread that polls it and by no
other, because in librdkafka's Python client a waiting poll starves every other call on it.
"""

from millstream_server.adapters.kafka.log import KafkaLog

__all__ = ["KafkaLog"]
