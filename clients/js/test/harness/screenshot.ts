import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Page } from "playwright-core";

/** Where pictures of the pages are put, on request only (`make screenshots`): a run of the tests changes no file. */
const DIRECTORY = process.env.ESPIGON_SCREENSHOTS;

export const TAKES_SCREENSHOTS = Boolean(DIRECTORY);

/** A picture of the page, small enough to be kept in the repository. */
export async function screenshot(page: Page, name: string, options: { fullPage?: boolean } = {}): Promise<void> {
  if (!DIRECTORY) return;
  await page.mouse.move(0, 0);
  await page.evaluate(() => {
    (document.activeElement as HTMLElement | null)?.blur();
    scrollTo(0, 0);
  });
  const png = await page.screenshot(options);
  // The browser has an encoder of WebP, in a page whose policy allows pictures.
  const blank = await page.context().newPage();
  const webp = await blank.evaluate(
    async (source) => {
      const image = new Image();
      image.src = source;
      await image.decode();
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [image.width, image.height];
      canvas.getContext("2d")!.drawImage(image, 0, 0);
      return canvas.toDataURL("image/webp", 0.86);
    },
    `data:image/png;base64,${png.toString("base64")}`,
  );
  await blank.close();
  mkdirSync(DIRECTORY, { recursive: true });
  writeFileSync(join(DIRECTORY, `${name}.webp`), Buffer.from(webp.split(",")[1]!, "base64"));
}
