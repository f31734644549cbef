# one line and status 1 each
try() {
    echo "\$ kvsweep $*"
    kvsweep "$@"
    echo "[$?]"
}
try rnu x
try run
try run --outptu x
try run nothing.yaml
try plan quickstart
echo 'models: [tiny]' >a.yaml
try plan a.yaml
printf 'models:\n  - {id: tiny, path: %s/fixtures/tiny}\nmethods: [full]\ntasks: [passkey]\ntopk: 3\n' "$TESTS" >b.yaml
try run b.yaml
try run b.yaml --set topk=2
try status none.h5
try export none.h5
try fetch smollm3-135m
try fetch llama-3-8b-instruct
try list method
try score passkee x.jsonl
try prompts --task qasper
try prompts --task passkey --set passkey.digits=65
try prompts --task passkey --set passkey.unit=tokens
try tokenize nothing
echo x >not.h5
try status not.h5
# an operand too many
try run a.yaml x
try plan golden x
try status a.h5 b.h5
try list methods models
try verify a.h5 b.h5
try logits "$TESTS/fixtures/tiny" x
# prompts without a token
for text in '' '[]'; do
    echo "$text" | tr -d '\n' >empty
    try logits "$TESTS/fixtures/tiny" --prompt empty -o x.h5
done
# an output that takes nothing
for args in 'plan golden --json' 'list methods' 'run --help' --help --version; do
    echo "\$ kvsweep $args >/dev/full"
    KVSWEEP_TINY=$TESTS/fixtures/tiny kvsweep $args >/dev/full
    echo "[$?]"
done
# ranks of one job have the same options: the first alone says what is wrong
OMPI_COMM_WORLD_RANK=1 try run --outptu x
# what cannot be meant
try run golden -o ''
try export r.h5 --csv --jsonl
mkdir -p cache && echo damaged >cache/SmolLM2-135M-Instruct.Q4_1.gguf
KVSWEEP_CACHE=cache try fetch smollm2-135m-instruct
# a folder that takes no files
kvsweep run -q "$TESTS/farm/farm.yaml" --set passkey.iterations=1 -o r.h5
try merge r.h5 -o /proc/m.h5
# prompts that leave no room for their context: the cut in the middle would take the question
echo '{"_id": "a1", "input": "What colour is the sky?", "context": "The grass is green and the sky is blue.", "answers": ["blue"], "length": 9}' >room.jsonl
echo "models: [{id: tiny, path: $TESTS/fixtures/tiny, template: none, max_len: 512}]
methods: [full]
tasks: [{name: longbench/qasper, data: room.jsonl, max_new: 512}]" >room.yaml
try plan room.yaml
try run room.yaml -o room.h5
try plan room.yaml --set longbench/qasper.max_new=15
try plan room.yaml --set longbench/qasper.max_new=14 | grep -c qasper
# layers that slide leave most methods nothing to act on, unless max_len keeps sequences within the window
cp -r "$TESTS/fixtures/tiny" window
sed -i 's/"model_type": *"llama"/"model_type": "mistral", "sliding_window": 256/' window/config.json
sed 's/longbench.*max_new: 512/passkey, lengths: [64], depths: 1, iterations: 1/; s,path: [^,]*,path: window,; s/\[full\]/[full, knorm]/' room.yaml >window.yaml
try plan window.yaml
try plan window.yaml --set models.0.max_len=0
try plan window.yaml --set models.0.max_len=256 | grep -c passkey
for n in 300 60; do
    yes 17 | head -n $n | paste -sd, | sed 's/.*/[&]/' >ids
    try logits window --prompt ids --max-new 4 -o window.h5
done
