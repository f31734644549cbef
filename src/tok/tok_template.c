#include <string.h>

#include "base/mem.h"
#include "tok/tok_int.h"

static const struct chat_template table[] = {
    {"none", "", "", false, NULL, "the prompt as it is"},
    {"chatml",
     "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
     "Face<|im_end|>\n<|im_start|>user\n",
     "<|im_end|>\n<|im_start|>assistant\n", false, "<|im_end|>", "chat_template of SmolLM2-Instruct"},
    {"chatml-plain", "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", false, "<|im_end|>",
     "ChatML without a system message"},
    {"qwen2", "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
     "<|im_end|>\n<|im_start|>assistant\n", false, "<|im_end|>", "chat_template of Qwen2-Instruct"},
    {"qwen2.5",
     "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
     "assistant.<|im_end|>\n<|im_start|>user\n",
     "<|im_end|>\n<|im_start|>assistant\n", false, "<|im_end|>", "chat_template of Qwen2.5-Instruct"},
    {"qwen3", "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", false,
     "<|im_end|>", "chat_template of Qwen3 with enable_thinking=False: answers without a chain of thought"},
    {"llama3", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
     "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", true, "<|eot_id|>",
     "chat_template of Meta-Llama-3-Instruct"},
    {"llama3.1",
     "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December "
     "2023\nToday Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
     "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", true, "<|eot_id|>",
     "chat_template of Llama-3.1- and 3.2-Instruct; the date is always the one that it has where no clock "
     "is"},
    {"mistral_instruct", "<s>[INST] ", " [/INST]", false, NULL,
     "chat_template of Mistral-7B-Instruct-v0.2, early revisions"},
    {"mistral_v3", "<s>[INST] ", "[/INST]", false, NULL, "chat_template of Mistral-7B-Instruct-v0.3"},
    {"vicuna",
     "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
     "detailed, and "
     "polite answers to the user's questions. USER: ",
     " ASSISTANT:", false, NULL, "FastChat vicuna_v1.1 (LongChat)"},
    {"recurrentgemma", "<bos><start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", true, NULL,
     "chat_template of recurrentgemma-it; its stop set has <eos> alone"},
    {"gemma", "<bos><start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", true, "<end_of_turn>",
     "chat_template of gemma-3-it"},
    {"mamba-chat", "<|user|>\n", "<|endoftext|>\n<|assistant|>\n", false, NULL,
     "Zephyr's form with this tokenizer's EOS"},
    {"rwkv",
     "User: hi\n\n"
     "                Assistant: Hi. I am your assistant and I will provide expert full response in full "
     "details. Please "
     "feel free to ask any question and I will always answer it.\n\n"
     "                User: ",
     "\n\n                Assistant:", false, NULL,
     "pipeline/model_utils.py of the reference benchmark, indents included"},
};

enum { N_TEMPLATES = sizeof table / sizeof *table };

const struct chat_template *tok_template(const char *name)
{
    for (size_t i = 0; i < N_TEMPLATES; i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    return NULL;
}

const struct chat_template *tok_template_at(int i)
{
    return i >= 0 && i < N_TEMPLATES ? &table[i] : NULL;
}

char *tok_template_apply(const struct chat_template *t, const char *prompt)
{
    size_t n = strlen(prompt), left = t->trim ? uni_trim_left(prompt, n) : 0;
    size_t right = t->trim ? uni_trim_right(prompt + left, n - left) : 0;
    struct str out = {0};
    str_add(&out, t->before);
    str_addn(&out, prompt + left, n - left - right);
    str_add(&out, t->after);
    return out.data ? out.data : mem_strdup("");
}
