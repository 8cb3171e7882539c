"""The language model of language.py as transformers.generate sees it. Needs torch.

Its padding token is not 0: transformers would then fill up with the end token.
"""

import functools

import torch
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from tests.decode.language import EOS, PAD, V, follow, table


class Config(PretrainedConfig):
    model_type = "automaton"


class Automaton(PreTrainedModel, GenerationMixin):
    """The model as transformers sees it: logits of the last position from all tokens that are
    real.
    """

    config_class = Config
    main_input_name = "input_ids"

    def __init__(self, config):
        super().__init__(config)
        self.table = torch.nn.Parameter(torch.tensor(table()), requires_grad=False)

    def forward(self, input_ids, attention_mask=None, **_):
        state = torch.zeros(len(input_ids), dtype=torch.long)
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        for token, exists in zip(input_ids.T, real.T, strict=True):
            state = torch.where(exists.bool(), follow(state, token), state)
        return CausalLMOutput(logits=self.table[state][:, None])

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **_):
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    @classmethod
    def can_generate(cls):
        return True


@functools.cache
def automaton() -> Automaton:
    model = Automaton(Config(vocab_size=V, eos_token_id=EOS, pad_token_id=PAD))
    return model.eval()
