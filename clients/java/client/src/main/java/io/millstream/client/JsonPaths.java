package io.millstream.client;

import com.fasterxml.jackson.databind.JsonMappingException;

/** Where in a JSON value something is, as the platform writes it: {@code $.readings[2].value}. */
final class JsonPaths {
  private JsonPaths() {}

  static String of(JsonMappingException error) {
    StringBuilder path = new StringBuilder("$");
    for (JsonMappingException.Reference step : error.getPath()) {
      if (step.getFieldName() != null) {
        path.append('.').append(step.getFieldName());
      } else {
        path.append('[').append(step.getIndex()).append(']');
      }
    }
    return path.toString();
  }
}
