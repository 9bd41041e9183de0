// How fast llama.cpp answers, through node-llama-cpp, which carries it prebuilt.
//
// One JSON object on standard input: {package, model, prompts: [ids], threads, newTokens}
// One on standard output: {runtime, oneRow: {tokens, seconds}, allRows: {tokens, seconds}, firstTokenSeconds}
// An answer that llama.cpp ends by itself is shorter; its tokens are counted as they are.

import {readFileSync} from "node:fs";
import {join} from "node:path";
import {pathToFileURL} from "node:url";

const asked = JSON.parse(readFileSync(0, "utf8"));
const facts = JSON.parse(readFileSync(join(asked.package, "package.json"), "utf8"));
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(join(asked.package, facts.main)));
const llama = await getLlama({build: "never", gpu: false, maxThreads: asked.threads, logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: asked.model, gpuLayers: 0});
const rows = asked.prompts.length;
const context = await model.createContext({contextSize: 512, sequences: rows, batchSize: 512, threads: asked.threads});
const sequences = asked.prompts.map(() => context.getSequence());

async function write(place, limit) {
    await sequences[place].clearHistory();
    let count = 0;
    for await (const _ of sequences[place].evaluate(asked.prompts[place], {temperature: 0, yieldEogToken: true})) {
        count += 1;
        if (count >= limit) break;
    }
    return count;
}

async function timed(places, limit) {
    const started = performance.now();
    const counts = await Promise.all(places.map((place) => write(place, limit)));
    return {tokens: counts.reduce((sum, count) => sum + count, 0), seconds: (performance.now() - started) / 1000};
}

const all = asked.prompts.map((_, place) => place);
await timed(all, 4);
const first = await timed([0], 1);
const {release} = llama.llamaCppRelease ?? {};
const result = {
    runtime: `llama.cpp ${release ?? ""} (node-llama-cpp ${facts.version})`,
    firstTokenSeconds: first.seconds,
    oneRow: await timed([0], asked.newTokens),
    allRows: await timed(all, asked.newTokens),
};
await model.dispose();
await llama.dispose();
process.stdout.write(JSON.stringify(result) + "\n", () => process.exit(0));
