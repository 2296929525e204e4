package io.millstream.client;

/**
 * The broker's acknowledgement of a request: from now on it will have its one result.
 *
 * @param id the request's id
 * @param record where the request lies on the log
 */
public record Receipt(String id, RecordRef record) {}
