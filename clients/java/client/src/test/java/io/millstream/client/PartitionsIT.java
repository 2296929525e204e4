package io.millstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Keys land where those of every other caller do. */
@Timeout(180)
class PartitionsIT {

  /** A thousand keys, sent to the broker, lie on the partitions that the platform's partitioner says in Python. */
  @Test
  void keysLandOnThePartitionsThatPythonSays() throws Exception {
    Map<String, Integer> python = Harness.partitionOf();
    Properties properties = Harness.properties();
    properties.setProperty("millstream.replies", "none");
    Map<String, Integer> java = new LinkedHashMap<>();
    try (Millstream millstream = new MillstreamClient(properties)) {
      Map<String, CompletableFuture<Receipt>> sent = new LinkedHashMap<>();
      python.keySet().forEach(key -> sent.put(key, millstream.send(PipelineRequest.of("java_nothing").key(key))));
      for (Map.Entry<String, CompletableFuture<Receipt>> one : sent.entrySet()) {
        java.put(one.getKey(), one.getValue().get(60, TimeUnit.SECONDS).record().partition());
      }
    }

    assertEquals(python, java);
    assertEquals(Harness.partitions(), java.values().stream().distinct().count());
  }
}
