/** `v1.`, then in base64url: the right to publish (1 byte), Unix times in ms of its end and of its beginning (8 each). */
const FORM = /^v1\.([\w-]{24})/;

/** For how long a grant is given, in milliseconds; undefined when that cannot be read from it. */
export function lifetime(grant: string): number | undefined {
  const claim = FORM.exec(grant)?.[1];
  if (!claim) return undefined;
  const bytes = atob(claim.replaceAll("-", "+").replaceAll("_", "/"));
  const time = (start: number) => {
    let value = 0;
    for (let i = start; i < start + 8; i++) value = value * 256 + bytes.charCodeAt(i);
    return value;
  };
  const life = time(1) - time(9);
  return life > 0 ? life : undefined;
}
