"""Published templates, spelled as in the code of their authors, including straight quotes and spaces.

PromptEOL (Jiang et al. 2023), Pretended CoT and Knowledge Enhancement (Zhang et al. 2024), PromptSTH and PromptSUM
(the same authors' training prompts), AnglE's summary prompt (Li & Li 2023), MetaEOL (Lei et al. 2024). Each with the
layer of its publication. The Chinese templates are our translations and end in the same straight quote.
"""

from __future__ import annotations

_KNOWLEDGE = (
    "The essence of a sentence is often captured by its main subjects and actions, while descriptive terms provide "
    "additional but less central details. With this in mind , "
)
PUBLISHED: dict[str, tuple[str, int]] = {
    "prompteol": ('This sentence : "{text}" means in one word:"', -1),
    "pretended_cot": ('After thinking step by step , this sentence : "{text}" means in one word:"', -2),
    "knowledge_enhancement": (_KNOWLEDGE + 'this sentence : "{text}" means in one word:"', -2),
    "promptsth": ('This sentence : "{text}" means something', -1),
    "promptsum": ('This sentence : "{text}" can be summarized as', -1),
    "angle_summary": ('Summarize sentence "{text}" in one word:"', -1),
    "prompteol_zh": ('这句话："{text}"用一个词概括是："', -1),
    "pretended_cot_zh": ('经过一步一步的思考，这句话："{text}"用一个词概括是："', -2),
    "knowledge_enhancement_zh": (
        '句子的核心通常体现在主语和动作上，描述性词语只补充次要的细节。据此，这句话："{text}"用一个词概括是："',
        -2,
    ),
}
"""Template and layer by name. All of them are pooled at the last token of the template."""
METAEOL: tuple[str, ...] = (
    "In this task, you're presented with a text excerpt. Your task is to categorize the excerpt into a broad category "
    "such as 'Education', 'Technology', 'Health', 'Business', 'Environment', 'Politics', or 'Culture'. These "
    "categories help in organizing content for better accessibility and targeting. For this task, this sentence : "
    '"{text}" should be classified under one general category in one word:"',
    "In this task, you're given a statement and you need to determine whether it's presenting an 'Opinion' or a "
    "'Fact'. This distinction is vital for information verification, educational purposes, and content analysis. For "
    'this task, this sentence : "{text}" discriminates between opinion and fact in one word:"',
    "In this task, you're given a review from an online platform. Your task is to generate a rating for the product "
    "based on the review on a scale of 1-5, where 1 means 'extremely negative' and 5 means 'extremely positive'. For "
    'this task, this sentence : "{text}" reflects the sentiment in one word:"',
    "In this task, you're reading a personal diary entry. Your task is to identify the predominant emotion expressed, "
    'such as joy, sadness, anger, fear, or love. For this task, this sentence : "{text}" conveys the emotion in one '
    'word:"',
    "In this task, you're presented with two sentences. Your task is to assess whether the sentences convey the same "
    "meaning. Use 'identical', 'similar', 'different', or 'unrelated' to describe the relationship. To enhance the "
    'performance of this task, this sentence : "{text}" means in one word:"',
    "In this task, you're given a sentence and a phrase. Your task is to determine if the phrase can be a contextual "
    "synonym within the given sentence. Options include 'yes', 'no', or 'partially'. To enhance the performance of "
    'this task, this sentence : "{text}" means in one word:"',
    "In this task, you're examining a news article. Your task is to extract the most critical fact from the article. "
    'For this task, this sentence : "{text}" encapsulates the key fact in one word:"',
    "In this task, you're reviewing a scientific abstract. Your task is to identify the main entities (e.g., proteins, "
    'diseases) and their relations (e.g., causes, treats). For this task, this sentence : "{text}" highlights the '
    'primary entity or relation in one word:"',
)
"""Two templates for each of four tasks: text classification, sentiment, paraphrase, information extraction."""
