package io.millstream.client;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;

/** The messages that every language replays: the repository's {@code protocol/golden/}. */
final class Golden {
  static final ObjectMapper JSON = new ObjectMapper();

  private static final Path FOLDER = Path.of(System.getProperty("millstream.protocol", "../../../protocol"), "golden");

  private Golden() {}

  static byte[] bytes(String name) {
    try {
      return Files.readAllBytes(FOLDER.resolve(name));
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }

  static JsonNode json(String name) {
    return parse(bytes(name));
  }

  static JsonNode parse(byte[] bytes) {
    try {
      return JSON.readTree(bytes);
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }
}
