// Reads a GGUF with llama.cpp (through node-llama-cpp), and says what it makes of prompts and answers.
//
// One JSON object on standard input:
//   {package, model, prompts: [{text, ids, answer, messages?}], stops, threads, newTokens}
// package: the folder of node-llama-cpp. One JSON object on standard output:
//   {runtime, prompts: [{textIds, written, wrote, picks, logprobs, rendered}], ends, tokens, seconds}
// textIds: the tokens of the prompt's text. written: greedy answer from ids, without the token that ended it; wrote: that
// token, or null. picks and logprobs: at each token of answer, read after what came before it, the most likely token, and
// the natural log-probability of the token that stands there. rendered: messages through the file's own chat template. ends:
// those of stops that llama.cpp takes for the end of an answer. tokens, seconds: what was written, and in what time.

import {readFileSync} from "node:fs";
import {createRequire} from "node:module";
import {join} from "node:path";
import {pathToFileURL} from "node:url";

const asked = JSON.parse(readFileSync(0, "utf8"));
const facts = JSON.parse(readFileSync(join(asked.package, "package.json"), "utf8"));
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(join(asked.package, facts.main)));
const llama = await getLlama({
    build: "never", gpu: false, maxThreads: asked.threads ?? 0, logLevel: LlamaLogLevel.error,
    logger: (level, message) => process.stderr.write(`${level}: ${message}\n`),
});
const model = await llama.loadModel({modelPath: asked.model, gpuLayers: 0});
const longest = Math.max(...asked.prompts.map(({ids, answer}) => ids.length + Math.max(answer.length, asked.newTokens)));
const context = await model.createContext({contextSize: longest + 8, sequences: 1, batchSize: 512});
const sequence = context.getSequence();

async function template() {
    const text = model.fileInfo.metadata?.tokenizer?.chat_template;
    if (!text) return null;
    try {
        // what node-llama-cpp itself renders chat templates with
        const {Template} = createRequire(join(asked.package, "package.json"))("@huggingface/jinja");
        return new Template(text);
    } catch (error) {
        return error.code === "MODULE_NOT_FOUND" ? null : Promise.reject(error);
    }
}

const special = (token) => (token == null ? "" : model.detokenize([token], true));
const jinja = await template();
const found = [];
let writtenTokens = 0, writingSeconds = 0;
for (const {text, ids, answer, messages} of asked.prompts) {
    await sequence.clearHistory();
    const read = [...ids, ...answer];
    const wanted = read.map((token, index) => {
        const next = read[index + 1];
        if (index + 1 < ids.length || next === undefined) return token;
        const logits = {filter: {tokens: [next], includeMax: true}};
        return [token, {generateNext: {token: true, logits, totalLogitWeight: true, options: {temperature: 0}}}];
    });
    const given = (await sequence.controlledEvaluate(wanted)).filter((one) => one !== undefined);
    await sequence.clearHistory();
    const written = [];
    let wrote = null;
    const started = performance.now();
    if (asked.newTokens > 0) {
        for await (const token of sequence.evaluate(ids, {temperature: 0, yieldEogToken: true})) {
            if (model.isEogToken(token)) wrote = token;
            else written.push(token);
            if (wrote !== null || written.length >= asked.newTokens) break;
        }
    }
    writingSeconds += (performance.now() - started) / 1000;
    writtenTokens += written.length;
    found.push({
        textIds: Array.from(model.tokenize(text, true)),
        written, wrote,
        picks: given.map(({next}) => next.token),
        logprobs: given.map(({next}, index) =>
            next.logits.get(answer[index]) - Math.max(...next.logits.values()) - Math.log(next.totalLogitWeight)),
        rendered: jinja && messages ? jinja.render({
            messages, add_generation_prompt: true, bos_token: special(model.tokens.bos), eos_token: special(model.tokens.eos),
        }) : null,
    });
}
const {release} = llama.llamaCppRelease ?? {};
const result = {
    runtime: `llama.cpp ${release ?? ""} (node-llama-cpp ${facts.version})`,
    prompts: found, ends: asked.stops.filter((token) => model.isEogToken(token)), tokens: writtenTokens, seconds: writingSeconds,
};
await model.dispose();
await llama.dispose();
process.stdout.write(JSON.stringify(result) + "\n", () => process.exit(0));
