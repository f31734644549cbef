# what is said of a model's files before anything is computed
make() { # NAME: a copy of the tiny model
    mkdir "$1" && cp "$TESTS"/fixtures/tiny/* "$1"
}
plan() { # MODEL KEYS…: the warnings of a plan
    printf 'models: [{id: m, path: %s, max_len: 4096, %s}]\nmethods: [full, h2o-paper]\ntasks: [{name: passkey, lengths: [8], depths: 1, max_new: 4}]\n' \
        "$1" "$2" >"$1.yaml"
    kvsweep plan "$1.yaml" 2>&1 >/dev/null
    echo "[$?]"
}
echo '$ nothing to say'
make plain
plan plain 'template: none'
plan plain ''
echo '$ a chat template that is not used'
make chat
echo '{"chat_template": "{% for m in messages %}<|im_start|>{{ m }}<|im_end|>{% endfor %}"}' >chat/tokenizer_config.json
plan chat ''
plan chat 'template: none'
echo '$ the end of the template is no token; nothing ends an answer'
make ends
sed -i 's/"eos_token_id": 0/"eos_token_id": null/' ends/config.json
plan ends 'template: chatml'
echo '$ two keys for one thing'
make both
sed -i 's/"rope_theta": 10000.0/"rope_theta": 5000, "rope_scaling": {"rope_type": "linear", "factor": 2}, "rope_parameters": {"rope_theta": 7}/' both/config.json
plan both 'template: none'
echo '$ a GGUF file of the Mistral family'
gguf=$TESTS/fixtures/model/gguf/model.gguf
{
    head -c 16 "$gguf" && printf '\x11\0\0\0\0\0\0\0\x0c\0\0\0\0\0\0\0general.name\x08\0\0\0\x20\0\0\0\0\0\0\0%-32s' 'Mistral 7B Instruct'
    tail -c +25 "$gguf"
} >x.gguf
plan x.gguf 'template: none'
plan x.gguf 'template: none, defaults: {h2o-paper: {lag: 1}}'
echo '$ ids need no tokenizer, text does'
rm plain/tokenizer.json
echo '[1, 2, 3]' >ids.json
echo 'some text' >text.txt
kvsweep logits plain -p ids.json -o o.h5 --threads 1 --device ref
echo "[$?]"
h5dump -d /ids o.h5 | grep -c '(0): 1, 2, 3,'
kvsweep logits plain -p text.txt -o o.h5 --threads 1 --device ref
echo "[$?]"
kvsweep logits both -p ids.json -o o.h5 --threads 1 --device ref
echo '$ a pointer in place of data'
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n' >q.jsonl
printf 'models: [{id: m, path: both, template: none}]\nmethods: [full]\ntasks: [{name: longbench/qasper, data: q.jsonl}]\n' >q.yaml
kvsweep run q.yaml 2>&1 | tail -1
# a prompt that comes through a pipe is read once
kvsweep logits "$TESTS/fixtures/tiny" --prompt <(echo '[1, 2, 3]') --max-new 2 -o pipe.h5 && echo "read from a pipe"
kvsweep logits "$TESTS/fixtures/tiny" --prompt <(echo '[1, 2, 3]') --force "$TESTS/fixtures/tiny/config.json" -o pipe.h5
