// Run by javascript.py: node javascript.mjs NAME FOLDER [read FILE | time FILE EVENTS SECONDS]
//
// The answer is one line of JSON: {"version", "node"} with "events" or "ns" as requested, or only
// {"missing"} or {"wrong"}, which say why there is no result.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

// Each returns a function that creates a parser, which is a function of a chunk.
const LOADERS = {
  async "eventsource-parser"(require) {
    const { createParser } = await import(pathToFileURL(require.resolve("eventsource-parser")));
    return (onEvent) => {
      // The parser takes text, so the time of decoding counts as its own.
      const decoder = new TextDecoder();
      const parser = createParser({ onEvent });
      return (chunk) => parser.feed(decoder.decode(chunk, { stream: true }));
    };
  },
  async "@microsoft/fetch-event-source"(require) {
    const { getLines, getMessages } = require("@microsoft/fetch-event-source/lib/cjs/parse.js");
    const ignore = () => {};
    // fetchEventSource() passes each chunk of a response to these.
    return (onEvent) => getLines(getMessages(ignore, ignore, onEvent));
  },
};

// The file has the length of each chunk in four bytes, little-endian, followed by the chunk.
function readChunks(file) {
  const bytes = readFileSync(file);
  const chunks = [];
  for (let at = 0; at < bytes.length; ) {
    const length = bytes.readUInt32LE(at);
    chunks.push(new Uint8Array(bytes.buffer, bytes.byteOffset + at + 4, length));
    at += 4 + length;
  }
  return chunks;
}

function read(begin, chunks) {
  const events = [];
  chunks.forEach(begin((it) => events.push([it.event || "message", it.data, it.id || ""])));
  return { events };
}

// Returns the fastest of the passes that fit the time. The first passes are slow, since the code is
// not compiled yet; they count only if there is no time for more.
function time(begin, chunks, expected, seconds) {
  const until = process.hrtime.bigint() + BigInt(Math.round(seconds * 1e9));
  let best = null;
  for (let now = 0n; now < until; ) {
    let count = 0;
    const started = process.hrtime.bigint();
    const feed = begin(() => {
      count += 1;
    });
    for (const chunk of chunks) feed(chunk);
    now = process.hrtime.bigint();
    if (count !== expected) return { wrong: `gives ${count} events of ${expected}` };
    if (best === null || now - started < best) best = now - started;
  }
  return { ns: Number(best) };
}

async function answer([name, folder, what, file, events, seconds]) {
  let begin, version;
  try {
    const require = createRequire(join(folder, "any.js"));
    begin = await LOADERS[name](require);
    ({ version } = require(`${name}/package.json`));
  } catch (error) {
    return { missing: error.message.split("\n")[0] };
  }
  const found = { version, node: process.versions.node };
  if (what === undefined) return found;
  const chunks = readChunks(file);
  if (what === "read") return { ...found, ...read(begin, chunks) };
  return { ...found, ...time(begin, chunks, Number(events), Number(seconds)) };
}

process.stdout.write(JSON.stringify(await answer(process.argv.slice(2))));
