/**
 * Calls Millstream's pipelines over Kafka.
 *
 * <p>{@link io.millstream.client.Millstream} is what an application is given and calls; {@link
 * io.millstream.client.MillstreamClient} is what serves it. One client serves a whole process, and every method may be called
 * from any thread.
 *
 * <p>How it is built, one duty a class: {@code RequestWriter} turns a request into a record, {@code RequestSender} hands records
 * to Kafka and listens for the acknowledgement, {@code WaitingCalls} holds the futures that wait, {@code ReplyReader} is the one
 * thread that reads results, {@code ResultReader} understands them. Invariant: a future that was handed out is completed exactly
 * once, by its result, its deadline, its cancellation or the end of the client.
 */
package io.millstream.client;
