/* Chat templates as models bring them (Jinja), which are read for advice alone: prompts are made with the
 * named templates of tok.h. */
#ifndef KVS_RUN_CHAT_H
#define KVS_RUN_CHAT_H

/* The template in a folder (chat_template.jinja, or `chat_template` of tokenizer_config.json; of several the
 * one called default) or in a GGUF file's metadata, owned; *text NULL where there is none. ERR_INPUT names
 * the file. */
int chat_template_read(const char *model_path, char **text);
/* The named template all of whose markers and sentences stand in `text`, the most of them where several do;
 * NULL: none. */
const char *chat_template_nearest(const char *text);

#endif
