"""Chat templates that show tools, in the syntaxes that checkpoints are trained on.

Written for these tests after the published ones; each keeps what is particular about its family.
"""

_SYSTEM_FIRST = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
)

HERMES = (
    _SYSTEM_FIRST
    + """<|im_start|>system
{{ system }}{% if tools %}

# Tools

<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>

Call within <tool_call></tool_call> tags.{% endif %}<|im_end|>
{% for message in messages %}{% if message['role'] == 'tool' %}<|im_start|>user
<tool_response>
{{ message['content'] }}
</tool_response><|im_end|>
{% else %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}{% for call in message['tool_calls'] or [] %}\
{% if not loop.first or message['content'] %}
{% endif %}<tool_call>
{"name": "{{ call['function']['name'] }}", "arguments": \
{{ call['function']['arguments'] | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
)
"""Qwen 2.5 and Hermes: tools in the system message, calls between tags."""

LLAMA3 = (
    _SYSTEM_FIRST
    + """<|begin_of_text|><|start_header_id|>system<|end_header_id|>

{{ system }}<|eot_id|>{% for message in messages %}{% if message['role'] == 'tool' %}\
<|start_header_id|>ipython<|end_header_id|>

{{ message['content'] }}<|eot_id|>{% elif message['tool_calls'] %}\
{% if message['tool_calls'] | length != 1 %}\
{{ raise_exception('This model only supports single tool-calls at once!') }}{% endif %}\
<|start_header_id|>assistant<|end_header_id|>

{"name": "{{ message['tool_calls'][0]['function']['name'] }}", "parameters": \
{{ message['tool_calls'][0]['function']['arguments'] | tojson }}}<|eot_id|>{% else %}\
<|start_header_id|>{{ message['role'] }}<|end_header_id|>

{% if tools and loop.first %}Given the following functions, please respond with a JSON for a \
function call.
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}
{% endif %}{{ message['content'] }}<|eot_id|>{% endif %}{% endfor %}\
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""
)
"""Llama 3.1: tools in the first user message, a call is bare JSON, the answer is `ipython`'s."""

MISTRAL = (
    _SYSTEM_FIRST
    + """<s>{% for message in messages %}{% if message['role'] == 'user' %}\
{% if tools and loop.first %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}\
[INST] {% if loop.first and system %}{{ system }}

{% endif %}{{ message['content'] }}[/INST]{% elif message['tool_calls'] %}[TOOL_CALLS] [\
{% for call in message['tool_calls'] %}{% if call['id'] | length != 9 %}\
{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}\
{"name": "{{ call['function']['name'] }}", "arguments": \
{{ call['function']['arguments'] | tojson }}, "id": "{{ call['id'] }}"}\
{% if not loop.last %}, {% endif %}{% endfor %}]</s>{% elif message['role'] == 'tool' %}\
[TOOL_RESULTS] {"content": {{ message['content'] | tojson }}, \
"call_id": "{{ message['tool_call_id'] }}"}[/TOOL_RESULTS]{% else %} {{ message['content'] }}</s>\
{% endif %}{% endfor %}"""
)
"""Mistral 7B v0.3: ids of nine characters, and no generation prompt."""

CODER = (
    _SYSTEM_FIRST
    + """<|im_start|>system
{{ system }}{% if tools %}<tools>{% for tool in tools %}
<function><name>{{ tool['function']['name'] }}</name>
<description>{{ tool['function']['description'] }}</description></function>{% endfor %}
</tools>{% endif %}<|im_end|>
{% for message in messages %}{% if message['role'] == 'tool' %}<|im_start|>user
<tool_response>
{{ message['content'] }}
</tool_response><|im_end|>
{% else %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}{% for call in message['tool_calls'] or [] %}<tool_call>
<function={{ call['function']['name'] }}>
{% for key, value in call['function']['arguments'] | items %}<parameter={{ key }}>
{{ value }}
</parameter>
{% endfor %}</function>
</tool_call>{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
)
"""Qwen 3 Coder: arguments between tags, without quotes."""

PLAIN = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Knows no tools, and says nothing about it."""

ALTERNATING = (
    "{% for message in messages %}{% if message['role'] == 'system' and not loop.first or"
    " (message['role'] not in ['system', 'user', 'assistant']) or"
    " (not loop.first and message['role'] == loop.previtem['role']) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Knows no tools, and rejects what is not a chat of two."""

KNOWING = {"hermes": HERMES, "llama3": LLAMA3, "mistral": MISTRAL, "coder": CODER}
IGNORING = {"plain": PLAIN, "alternating": ALTERNATING}
