/** JMQT for browsers and Node. `Client` is where to begin. */
export { Client } from './client.js';
export type {
  ClientEvents,
  ClientOptions,
  ClientState,
  ConnectedEvent,
  Counters,
  DisconnectEvent,
  PubOptions,
  Published,
  ReconnectingEvent,
  StateEvent,
  SubOptions,
  UnsubOptions,
} from './client.js';
export type { MessageStream, PushListener } from './delivery.js';
export {
  AbortedError,
  ClosedError,
  ConnectionLostError,
  JmqtError,
  NetworkError,
  QueueFullError,
  RefusedError,
  Status,
  TimeoutError,
  UnauthorizedError,
  UnsupportedError,
  UsageError,
  WrongServerError,
  describeStatus,
} from './errors.js';
export type { ErrorCode } from './errors.js';
export type { CallOptions } from './limit.js';
export type { Message } from './message.js';
export type { QueueFull } from './outbox.js';
export { RawJson } from './packet.js';
export type { Qos } from './packet.js';
export { DisconnectCode, describeReason } from './reason.js';
export type { DisconnectReason } from './reason.js';
export type { ReconnectOptions } from './reconnect.js';
export type { Credentials } from './session.js';
export type { Subscription, SubscriptionState, SubscriptionStateEvent } from './subscription.js';
export type { RefreshContext } from './tokens.js';
export type { WebSocketConstructor, WebSocketLike } from './transport.js';
