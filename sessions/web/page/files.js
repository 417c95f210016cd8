/**
 * Files that the user brings, made into what the server takes.
 * Rule: pictures are made smaller here, to what the API looks at; anything else goes as it is, or is refused with a
 * sentence that says why.
 */

import { bytes } from "./dom.js";

/** Pixels of the long side that the API looks at; more is only slower. */
const LONG_SIDE = 1568;
/** Bytes of a picture in base64 that the API takes. */
const PICTURE = 5 * 1024 * 1024;
const TEXT = 1_000_000;
const PICTURES = ["image/jpeg", "image/png", "image/gif", "image/webp"];
const TEXTS = { csv: "text/csv", htm: "text/html", html: "text/html", json: "application/json", md: "text/markdown", xml: "text/xml" };
const TAKEN = "Pictures (JPEG, PNG, GIF, WebP), PDF and text can be sent.";

/** What a file becomes: `{ type, name, media_type, data, local, size }`, `data` in base64. Raises `Error`. */
export async function prepared(file, config) {
  const name = (file.name || "pasted").slice(0, 255);
  if (!file.size) throw new Error(`“${name}” is empty.`);
  if (file.type.startsWith("image/") && file.type !== "image/svg+xml") return picture(file, name);
  if (file.size * 1.4 > config.body_bytes) {
    throw new Error(`“${name}” is too large (${bytes(file.size)}): a message may have ${bytes(config.body_bytes / 1.4)} in all.`);
  }
  if (file.type === "application/pdf" || /\.pdf$/i.test(name)) {
    if ((await file.slice(0, 5).text()) !== "%PDF-") throw new Error(`“${name}” is no PDF. ${TAKEN}`);
    return part("document", name, "application/pdf", file);
  }
  return text(file, name);
}

/** Checks that all of them fit into one message. Raises `Error`. */
export function checkTogether(files, config) {
  const size = files.reduce((sum, file) => sum + file.data.length, 0);
  if (size + 100_000 > config.body_bytes) {
    throw new Error(`These files are too large together (${bytes(size / 1.34)}): a message may have ${bytes(config.body_bytes / 1.4)} in all.`);
  }
}

async function part(type, name, kind, blob) {
  const data = await base64(blob);
  const local = type === "image" ? URL.createObjectURL(blob) : null;
  return { type, name, media_type: kind, data, local, size: blob.size };
}

async function text(file, name) {
  const refused = new Error(`“${name}” cannot be sent. ${TAKEN}`);
  if (file.size > 4 * TEXT) throw file.type.startsWith("text/") ? tooLong(name) : refused;
  let content;
  try {
    content = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw refused;
  }
  if (content.includes("\0")) throw refused;
  if (!content.trim()) throw new Error(`“${name}” is empty.`);
  if (content.length > TEXT) throw tooLong(name);
  const kind = TEXTS[name.split(".").pop().toLowerCase()] ?? "text/plain";
  return part("document", name, kind, file);
}

const tooLong = (name) => new Error(`“${name}” is too large: a text may have ${TEXT.toLocaleString("en")} characters.`);

async function picture(file, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`“${name}” is no picture that this browser can read. ${TAKEN}`);
  }
  try {
    const isTaken = PICTURES.includes(file.type) && file.size * 1.34 < PICTURE;
    if (isTaken && Math.max(bitmap.width, bitmap.height) <= LONG_SIDE) return await part("image", name, file.type, file);
    return await drawn(bitmap, name, file.type === "image/jpeg" ? "image/jpeg" : "image/png");
  } finally {
    bitmap.close();
  }
}

/** Drawn anew, smaller; where PNG is too large, as JPEG. */
async function drawn(bitmap, name, wanted) {
  const scale = Math.min(1, LONG_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  for (const [kind, quality] of [[wanted, 0.9], ["image/jpeg", 0.85], ["image/jpeg", 0.6]]) {
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, kind, quality));
    if (blob && blob.size * 1.34 < PICTURE) return part("image", name, kind, blob);
  }
  throw new Error(`“${name}” is too large.`);
}

export function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(blob);
  });
}
