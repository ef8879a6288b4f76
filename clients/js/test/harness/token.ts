import { createHmac } from "node:crypto";

/** Signs the tests' tokens. */
export const SECRET = "the secret of the client's tests, 32 bytes and more";

/** A token of this user for all rooms, good for an hour unless told otherwise. */
export function token(user: string, claims: Record<string, unknown> = {}, secret = SECRET): string {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const now = Math.floor(Date.now() / 1000);
  const head = part({ alg: "HS256", typ: "JWT" });
  const body = part({ sub: user, exp: now + 3600, rooms: ["*"], ...claims });
  const signed = `${head}.${body}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

/** Unix time in seconds, from now. */
export function inSeconds(seconds: number): number {
  return Math.floor(Date.now() / 1000) + seconds;
}
