# a prompt method in a grid: llmlingua2 with a small random encoder, in both modes, its prompts, its refusals
enc="encoder=$TESTS/fixtures/prompt/encoder,ranks=$TESTS/fixtures/prompt/ranks.tiktoken"
cat >p.yaml <<Y
models: [{id: tiny, path: "$TESTS/fixtures/tiny", template: none}, {id: again, path: "$TESTS/fixtures/tiny", template: none}]
methods: [full, "llmlingua2:$enc", "llmlingua2:rate=4,$enc", "llmlingua2:rate=4,ranks=none,encoder=$TESTS/fixtures/prompt/encoder"]
tasks: [{name: passkey, lengths: 60, unit: words, depths: 2, iterations: 1, max_new: 4}]
dtype: f32
Y
show() {
    kvsweep export "$1" --jsonl | grep -o '"\(setting\|status\|n_prompt\|kept_tokens\|true_ratio\)": [^,}]*' | tr '\n' ' ' | sed 's/"setting"/\n&/g' | sort
}
kvsweep plan p.yaml >/dev/null
kvsweep run -q p.yaml -o fair.h5
show fair.h5
kvsweep run -q p.yaml --set mode=paper -o paper.h5
show paper.h5
kvsweep verify fair.h5
# the prompts themselves: instruction and question stay in fair mode, the needle's whole text is rewritten in paper mode
kvsweep prompts p.yaml --method "llmlingua2:rate=4,$enc" | head -1
kvsweep prompts p.yaml --method "llmlingua2:rate=4,$enc" --set mode=paper | head -1
# refused before anything is loaded
kvsweep plan p.yaml --set 'methods=["llmlingua2:rate=0.5"]'
kvsweep plan p.yaml --set "methods=[\"llmlingua2:encoder=$TESTS/fixtures/tiny\"]"
kvsweep run p.yaml --set 'methods=["llmlingua2:encoder=/nowhere/enc"]' -o no.h5
kvsweep run p.yaml --set "methods=[\"llmlingua2:encoder=$TESTS/fixtures/prompt/encoder,ranks=/nowhere/r.tiktoken\"]" -o no.h5
kvsweep run p.yaml --set 'methods=["llmlingua2:budget=1MiB"]' -o no.h5
kvsweep bench decode --model "$TESTS/fixtures/tiny" --method llmlingua2
ls
