// Reads a payload in another language, from docs/payloads.md alone: node decode.mjs CONTENT_TYPE TASK_ID PART KEY_HEX FOLDER < payload
import { createDecipheriv, createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { inflateSync } from "node:zlib";

const [, , firstType, taskId, part, key, folder] = process.argv;

function unpack(packed) {
  const begin = 2 + packed.readUInt16BE(0);
  return [packed.subarray(begin), packed.subarray(2, begin).toString("utf8")];
}

function decrypt(data) {
  const decipher = createDecipheriv("aes-256-gcm", Buffer.from(key, "hex"), data.subarray(0, 12));
  decipher.setAAD(Buffer.from(`muster.v1\0${part}\0${taskId}`));
  decipher.setAuthTag(data.subarray(-16));
  return Buffer.concat([decipher.update(data.subarray(12, -16)), decipher.final()]);
}

function fetchBlob(data) {
  const { url, size, sha256, content_type } = JSON.parse(data.toString("utf8"));
  const digest = url.replace(/^folder:/, "");
  const blob = readFileSync(join(folder, digest.slice(0, 2), digest));
  if (blob.length !== size || createHash("sha256").update(blob).digest("hex") !== sha256) throw new Error("not what was stored");
  return [blob, content_type];
}

let [data, contentType] = [readFileSync(0), firstType];
for (let round = 0; round < 8; round++) {
  const mediaType = contentType.split(";")[0].trim().toLowerCase();
  if (mediaType === "application/vnd.muster.zlib") [data, contentType] = unpack(inflateSync(data));
  else if (mediaType === "application/vnd.muster.aes256gcm") [data, contentType] = unpack(decrypt(data));
  else if (mediaType === "application/vnd.muster.blob+json") [data, contentType] = fetchBlob(data);
  else break;
}
process.stdout.write(`${contentType}\n`);
process.stdout.write(data);
