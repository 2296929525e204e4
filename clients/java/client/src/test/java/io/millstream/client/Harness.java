package io.millstream.client;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * What {@code make test-java} tells these tests: where the broker is, which command is {@code millstream}, which data directory the
 * packages are deployed on.
 */
final class Harness {
  private static final JsonNode TOLD = read();
  private static final AtomicInteger CLIENTS = new AtomicInteger();

  private Harness() {}

  private static JsonNode read() {
    String file = System.getProperty("millstream.harness");
    if (file == null) {
      throw new IllegalStateException("these tests need a broker and a node; run: make test-java");
    }
    try {
      return Golden.parse(Files.readAllBytes(Path.of(file)));
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }

  static String bootstrap() {
    return TOLD.path("bootstrap").asText();
  }

  static Path dataDir() {
    return Path.of(TOLD.path("data_dir").asText());
  }

  static List<String> command() {
    List<String> words = new ArrayList<>();
    TOLD.path("command").forEach(word -> words.add(word.asText()));
    return words;
  }

  /** What a node needs besides an address to reach the cluster of the harness. */
  static Map<String, String> nodeEnvironment() {
    return texts("node_environment");
  }

  private static Map<String, String> texts(String name) {
    Map<String, String> found = new TreeMap<>();
    TOLD.path(name).properties().forEach(entry -> found.put(entry.getKey(), entry.getValue().asText()));
    return found;
  }

  static int partitions() {
    return TOLD.path("partitions").asInt();
  }

  /** The partition of each of some keys, as the platform's own partitioner says in Python. */
  static Map<String, Integer> partitionOf() {
    Map<String, Integer> found = new TreeMap<>();
    TOLD.path("partition_of").properties().forEach(entry -> found.put(entry.getKey(), entry.getValue().asInt()));
    return found;
  }

  /** Properties of a client whose reply topic nobody else has. */
  static Properties properties() {
    Properties properties = new Properties();
    properties.putAll(texts("kafka"));
    properties.setProperty("bootstrap.servers", bootstrap());
    properties.setProperty("millstream.client", "java-" + ProcessHandle.current().pid() + "-" + CLIENTS.incrementAndGet());
    return properties;
  }

  /** Asks for a broker of the tests' own: start, stop or kill. */
  static String desk(String line) {
    try (Socket socket = new Socket(InetAddress.getLoopbackAddress(), TOLD.path("desk").asInt());
        BufferedReader answers = new BufferedReader(new InputStreamReader(socket.getInputStream(), StandardCharsets.UTF_8))) {
      socket.getOutputStream().write((line + "\n").getBytes(StandardCharsets.UTF_8));
      String answer = answers.readLine();
      if (answer == null || answer.startsWith("error")) {
        throw new IllegalStateException("the desk was asked to " + line + " and says: " + answer);
      }
      return answer;
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }
}
