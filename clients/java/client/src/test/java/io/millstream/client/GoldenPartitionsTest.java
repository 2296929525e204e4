package io.millstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;

import com.fasterxml.jackson.databind.JsonNode;
import java.nio.charset.StandardCharsets;
import org.apache.kafka.common.utils.Utils;
import org.junit.jupiter.api.Test;

/** The hash of Kafka's producer is that of the platform; {@link PartitionsIT} proves the same with records on a broker. */
class GoldenPartitionsTest {

  /** Kafka's own hash agrees with the golden partitions. */
  @Test
  void goldenPartitionsAgree() {
    for (JsonNode golden : Golden.json("kafka-v1/partitions.json")) {
      int hash = Utils.murmur2(golden.path("key").asText().getBytes(StandardCharsets.UTF_8));
      assertEquals(golden.path("murmur2").asInt(), hash);
      assertEquals(golden.path("of_12").asInt(), Utils.toPositive(hash) % 12);
      assertEquals(golden.path("of_3").asInt(), Utils.toPositive(hash) % 3);
    }
  }
}
