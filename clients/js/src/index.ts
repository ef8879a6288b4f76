export { Client, type ClientEvents, type ClientOptions, type PublishOptions } from "./client.js";
export type { Off } from "./emitter.js";
export { EspigonError } from "./error.js";
export type { Cause, State, Status } from "./machine.js";
export type { JoinedEvent, LeftEvent, LostEvent, Message, RoomEvents } from "./message.js";
export type { Ack, Position, Since } from "./protocol.js";
export { Room, type RoomState } from "./room.js";
export type { GetToken } from "./tokens.js";
