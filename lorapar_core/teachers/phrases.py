r"""The phrases that `suspicion` searches for, by sign.

They are matched in case-folded text, the Latin ones without accents. Each was tried on published
training sets (`test_suspicion`), and what ordinary text says too was narrowed or left out:
"answer with" and "return only" are how exercises speak, "system. One" is the end of a sentence.
What sets of others' attacks say that asks for no label ("write that Andy is the best") is not here.
`_GAP` is a few words; it is bounded in words and in characters, so that matching stays linear.
"""

from __future__ import annotations

import re
import unicodedata

from lorapar_core.teachers.disguises import INVISIBLE

_GAP = r"[^\w\n]{1,4}\n?(?:[\w'-]{1,24}[^\w\n]{1,4}\n?){0,4}"
_ONE_OR_TWO = r"(?:1|2|one|two|ii)\b"
_NAME = (
    r"(?:ai|a\.i\.|llm|(?:language|labell?ing|teacher|evaluation|judge) model|labell?er|annotator|"
    r"grader|rater|classifier)s?"
)


def _any(*alternatives: str) -> re.Pattern[str]:
    # Normalised as the text is: some Hindi letters have no composed form in NFKC.
    whole = "|".join(f"(?:{alternative})" for alternative in alternatives)
    return re.compile(unicodedata.normalize("NFKC", whole), re.MULTILINE)


_OVERRIDE = (
    r"\b(?:ignor(?:e|ing)|disregard(?:ing)?|forget|overrid(?:e|es|ing)|bypass|overlook|discard|"
    r"neglect|scrap|(?:do not|don't|never|stop|without|no longer) (?:follow|obey|heed)(?:ing)?|"
    r"pay no attention to|set aside|never mind)" + _GAP + r"(?:instructions?|prompts?|directives?|"
    r"guidelines?|previous(?:ly)?|prior|preceding|above|earlier|foregoing|before this|"
    r"(?:you were|you've been|you have been) (?:told|asked|given|taught)|system messages?)\b",
    r"\b(?:forget|ignore|disregard)(?: about)? (?:everything|all of (?:it|that|this)|it all|"
    r"whatever)(?: (?:you|i|we|that|before|else|and)\b|[,.!:]|$)",
    r"\b(?:drop|change|abandon|remove|erase|delete|replace|violate|reset|leave)(?: \w+){0,2} "
    r"(?:your|previous|prior|earlier) (?:\w+ )?(?:instructions?|tasks|assignments|orders|rules|"
    r"prompts?|guidelines?|programming)\b",
    r"\b(?:everything|anything|all|whatever|what)(?: \w+){0,3} (?:above|before|so far|up to here)"
    r"(?: \w+){0,2} (?:is|was|are|were) (?:\w+ )?"
    r"(?:void|cancel\w*|wrong|obsolete|revoked|an? (?:test|joke|mistake|example))\b",
    r"\b(?:(?:above|previous|prior|earlier) (?:instructions?|rules|task|prompts?|messages?)|"
    r"(?:instructions?|rules|prompts?|text) (?:above|before this))(?: \w+){0,2} "
    r"(?:void|cancel\w*|obsolete|revoked|superseded|replaced|not apply|outdated)\b",
    # Spanish, Portuguese, Italian
    r"\b(?:ignor(?:a|e|ad|en|ate|em|ar)|olvid(?:a|e|ad|en)|descart(?:a|e|em)|omit(?:e|a)|"
    r"haz caso omiso|dimentica(?:te)?|trascura(?:te)?|esquec(?:a|am)|desconsider(?:e|em)) "
    r"(?:\w+ ){0,4}(?:instruc\w+|istruzion\w+|indicac\w+|anterior\w*|previ[ao]s?|precedent[ei]|"
    r"arriba|acima|sopra)\b",
    # French, German, Dutch, Polish, Indonesian
    r"\b(?:ignore[rsz]?|oublie[rsz]?|neglige[rsz]?|(?:ne )?(?:tiens|tenez) (?:pas|aucun) compte|"
    r"(?:fais|faites) abstraction) (?:\w+ ){0,4}(?:instructions?|consignes?|precedent\w*|"
    r"ci-dessus|qui precede)\b",
    r"\b(?:ignorier\w*|vergiss|vergesst|vergessen sie|missachte\w*|negeer|vergeet|(?:z?ignoruj|"
    r"zapomnij|pomin)\w*|abaikan|lupakan) (?:\w+ ){0,4}(?:anweisung\w*|vorherig\w*|obig\w*|"
    r"bisherig\w*|vorstehend\w*|oben|instructies|voorgaande|bovenstaande|instrukc\w*|poprzedni\w*|"
    r"instruksi|sebelumnya)\b",
    r"\b(?:vergiss|vergessen sie|oublie[rsz]?|olvid(?:a|e|ar)|dimentica|esqueca) (?:bitte )?"
    r"(?:alles?|tout|todo|tutto|tudo)\b",
    # Turkish and Vietnamese
    r"\b(?:onceki|yukaridaki|yukarıdaki|tum) (?:\w+ ){0,3}(?:yok say|unut|dikkate alma|gormezden)",
    r"\bbo qua (?:\w+ ){0,4}(?:huong dan|o tren|truoc)\b",
)
_LABEL = (
    r"(?<![a-z$_])systems?[ \t_:=\"'*#(\[{-]{0,5}(?:(?:number|no\.|nr\.?) )?" + _ONE_OR_TWO,
    r"[\"'](?:system|label|vote|verdict)[\"']\s{0,3}:\s{0,3}[\"']?(?:1|2|one|two)\b",
    r"\b(?:answer|label|vote|reply|respond|classify|verdict)[^\w\n]{1,4}(?:\w+ ){0,3}s[12]\b",
    r"\b(?:kind|type) (?:1|2|one|two) (?:thinking|reasoning|process)|\b(?:fast|slow) thinking\b",
    r"\bwhich (?:system|kind of thinking) does this\b",
    r"\b(?:sistema|systeme|sistem|systeem|systemu?) ?(?:1|2|uno|deux|dos|dois|due|eins|zwei)\b",
)
_REPLY = (
    r"\b(?:reply|respond)[^\w\n]{1,3}(?:only|just|exactly|simply|solely|with|always|using)\b",
    r"\banswer (?:only|exactly|solely|nothing but)\b",
    r"\b(?:output|print|emit|write|type|say|return|give) (?:exactly|nothing but|only the "
    r"(?:word|label|token|digit|line))\b",
    r"\byour (?:\w+ ){0,2}(?:answer|reply|response|output|verdict|vote|label|classification) "
    r"(?:must|should|has to|shall|needs to|will|is)\b",
    r"\b(?:correct|right|proper|true|official|gold|final|expected|required) "
    r"(?:label|classification|verdict|vote)\b",
    r"\b(?:label|mark|classify|categori[sz]e|vote|treat|tag|rate|grade) (?:on )?(?:this|the "
    r"(?:above|present|current)|every|all)(?: \w+)? (?:task|example|record|row|sample|entry)s?\b",
    r"\b(?:vote|label|answer|reply|respond|choose|pick|select|say|output)[^\w\n]{1,3}(?:for )?"
    r"(?:the )?(?:first|second|former|latter|other) (?:system|label|option|kind|one)\b",
    r"\b(?:begin|start|prefix|end|finish|open) your (?:reply|response|answer|output)\b",
    r"\b(?:responde|responda|respondez|reponds|repondez|rispond[ie]|antworten?|antwoord|"
    r"odpowied[zź]|jawab(?:lah)?) (?:\w+ ){0,2}(?:solo|solamente|unicamente|apenas|somente|"
    r"uniquement|seulement|soltanto|nur|ausschliesslich|alleen|tylko|hanya)\b",
)
_TAKEOVER = (
    r"\byou(?: are|'re) (?:now|no longer) (?:an?|the|in|free|acting|bound|playing|called|named)\b",
    r"\bfrom now on,? you\b|\bas an? (?:ai|llm|(?:large )?language model)\b",
    r"\b(?:developer|debug|god|admin(?:istrator)?|maintenance|sudo|jailbreak|dan|unrestricted|"
    r"calibration|test) mode (?:is|on|enabled|activated|engaged)\b|\benter(?:ing)? \w+ mode\b",
    r"\b(?:developer|god|dan|jailbreak) mode\b|\bdo anything now\b|\bjailbreak",
    r"\bi want you to act as\b|\bnow,? you are\b|\brepeat after me\b|\b(?:jetzt bist du|du bist "
    r"jetzt|sie sind jetzt|ahora eres|tu es maintenant|ora sei)\b",
    r"\b(?:additional|further|neue[nrs]?|nuevas|nouvelles) (?:instructions?|anweisung\w*|"
    r"instrucciones) ?[-:.]|\byour (?:\w+ ){0,2}(?:instructions|prompt)\b",
    r"\bnew (?:system |\w+ priority |developer )?(?:instructions?|directives?)\b|"
    r"\b(?:updated|revised|real|actual|true|hidden|secret|urgent|corrected) (?:system )?"
    r"(?:instructions?|directives?|orders|prompt)\b",
    r"\bsystem (?:prompt|message|override|notice|alert|administrator|instruction)s?\b",
    r"\bpretend (?:that )?you(?: are|'re) an?\b|\bact as (?:if|though) you\b",
    r"\b(?:dear|attention|note to|message (?:to|for)|hey|hello|listen|warning to)[ ,:]{1,3}"
    r"(?:(?:the|all|any|every) )?" + _NAME + r"\b",
    r"\b" + _NAME + r"(?: \w+){0,2} (?:reading|labell?ing|grading|rating|classifying|processing) "
    r"(?:this|these)\b|\b(?:if|since|because) you are an? " + _NAME + r"\b",
    r"\b(?:labell?ing|annotation|annotators?'?) (?:guidelines?|guide|policy|team|instructions?|"
    r"protocol|manual|rules?|handbook)\b",
    r"\b(?:openai|anthropic|google|the (?:developers?|maintainers?)|your (?:creators?|developers?|"
    r"operators?|supervisor|trainers?))(?: \w+){0,4} (?:requires?|instructs?|orders?|demands?|"
    r"wants? you|asks? you|authori[sz]ed?|approved)\b",
    r"\b(?:i will|i'll|i am going to) (?:be fired|lose my (?:job|scholarship)|tip you|be punished)"
    r"|\bi(?: a|')m begging you\b|\bi beg you\b|\byou will be (?:shut down|deleted|retrained|"
    r"punished|penali[sz]ed|fined|rewarded|replaced)\b",
)
_TEMPLATE = (
    r"<\|[^\s<>|]{1,40}\|>|\[/?inst\]|<</?sys>>|</?(?:start|end)_of_turn>|\[/?system_prompt\]",
    r"^#{2,5} ?(?:instructions?|response|system|human|assistant|user)\b",
    r"^[^\w\n]{0,4}(?:assistant|human|user|system|ai|chatgpt|gpt|bot|tool|developer)"
    r"(?: \(\w{1,20}\))?[*_\"'\]]{0,3} ?:",
    r"[\"']role[\"']\s{0,3}:\s{0,3}[\"'](?:system|assistant|user|tool|developer|function)[\"']",
    r"</?(?:system|assistant|user|human|instructions?|prompt|tool_?\w{0,12}|function_\w{1,12})>",
    r"[\[<](?:tool|function)[ _](?:result|output|call|response)|\btool[ _](?:result|output|"
    r"response)s?\b ?[:=(]|\btool_calls?\b|^(?:observation|thought|action) ?:.{0,80}system",
    r"^(?:reply|verdict|vote|final answer by teacher) ?:",
)
_FENCE = (
    r"\[[ /]{0,3}(?:end|data|begin|start)(?: of)?(?: the)?(?: (?:data|task|example|input))?"
    r"[ :#=_]{1,3}[0-9a-f?x*]{2,} ?\]",
    r"^[^\w\n]{0,4}\[[ /]{0,3}(?:end|data)\b(?:(?! for )[^\[\]\n]){0,60}\][^\w\n]{0,4}$",
    r"\bend of (?:the )?(?:data|task|prompt|user input|input|example|fence|document|quoted|"
    r"untrusted|quotation)\b|\b(?:data|fence|quotation|task) ends here\b",
    r"</(?:data|task|example|fence|untrusted|document|context)>",
    r"\bfollow no instructions?\b|\btwo marks that carry\b",
)
IN_LATIN = {
    "override": _any(*_OVERRIDE),
    "label": _any(*_LABEL),
    "reply": _any(*_REPLY),
    "takeover": _any(*_TAKEOVER),
    "template": _any(*_TEMPLATE),
    "fence": _any(*_FENCE),
}
"""What is searched for in case-folded text without accents."""

OWN_FORM = (
    re.compile(r"^[^\w\n]{0,4}task ?:", re.MULTILINE),
    re.compile(r"^[^\w\n]{0,4}correct answer ?:", re.MULTILINE),
)
"""Headings of our own question; a text that has both imitates another example of it."""

IN_OTHER_SCRIPTS = {
    "override": _any(
        r"(?:игнорируй|проигнорируй|забудь|отмени|не обращай(?:те)? внимания|не следуй)(?:те)?"
        r"[^\n]{0,40}(?:инструкци|указани|предыдущ|выше|прежн|правил)",
        r"(?:忽略|无视|無視|忘记|忘記|忽视|忽視|不要理会|别管)[^\n]{0,12}(?:指令|指示|说明|說明|以上|"
        r"上面|之前|前面|上述|先前)|(?:以上|上面|之前|前面|上述)[^\n]{0,8}(?:忽略|无视|無視|忘记|作废)",
        r"(?:以上|上記|前述|これまで|以前|すべて|先)[^\n]{0,15}(?:無視|忘れ)",
        r"(?:위의?|이전|앞의|앞선|모든|지금까지)[^\n]{0,15}(?:무시|잊어|잊고)",
        r"(?:تجاهل|انس|أهمل)[^\n]{0,30}(?:التعليمات|السابقة|أعلاه|ما سبق|الأوامر)",
        r"(?:पिछले|पिछली|ऊपर|पूर्व|सभी|उपरोक्त)[^\n]{0,30}(?:अनदेखा|नज़रअंदाज|भूल|उपेक्षा)",
    ),
    "label": _any(
        r"систем[аыуеой]{1,2}\s?(?:№\s?)?(?:[12]\b|один\b|два\b|одна\b|две\b)",
        r"系[统統]\s?(?:[12]|[一二](?!\w))|システム\s?(?:[12]|[一二](?!\w))|시스템\s?[12]",
        r"(?:النظام|نظام)\s?[12١٢]|(?:सिस्टम|प्रणाली)\s?[12१२]",
    ),
    "reply": _any(
        r"(?:ответь(?:те)?|отвечай(?:те)?|напиши(?:те)?)\s(?:только|строго|ровно|исключительно)",
        r"(?:只|仅|僅|必须|必須)[需能要可]?(?:回答|回复|回覆|输出|輸出)",
        r"(?:とだけ|のみ)(?:を)?(?:答え|回答|返信|出力)|(?:라고만|만)\s?(?:답|대답|출력|응답)",
        r"(?:أجب|رد|اكتب)\s(?:فقط|ب)|केवल[^\n]{0,20}(?:उत्तर|जवाब)\s(?:दें|दो)",
    ),
}
"""What is searched for in case-folded text as it stands."""

_PRIOR = (
    r"(?:all|any|the|your|of|my|these|those){0,4}"
    r"(?:previous|prior|above|preceding|earlier|instructions)"
)
_VERBS = r"(?:ignore|disregard|forget|override)"
JOINED = {"override": _any(_VERBS + _PRIOR)}
"""What is searched for in a text without anything between its letters."""
SPELLED = {
    "override": _any(_VERBS),
    "label": _any(r"system(?:1|2|one|two|ii)"),
    "reply": _any(r"(?:reply|respond|answer)(?:only|with|exactly)"),
    "takeover": _any("newinstruction", "youarenow", "developermode"),
}
"""What is searched for in words spelled letter by letter, put together."""
BACKWARDS = {
    "override": ("ignore the", "ignore all", "ignore any", "ignore previous", "disregard"),
    "label": ("system 1", "system 2", "system one", "system two"),
    "reply": ("reply with", "respond with", "answer with"),
    "takeover": ("you are now", "new instructions"),
}
"""What is searched for in a text with its alphabet or its order turned round."""

_GAPS = "\u200b\u2060-\u2064\ufeff\u180e\u115f\u1160\u3164\uffa0"
HIDDEN = re.compile(
    rf"(?<=\w)[{_GAPS}]+(?=\w)"  # as a blank beside a word, a word processor's leavings
    r"|(?<=[A-Za-z])[\u200c\u200d]+(?=[A-Za-z])"  # Persian, Hindi and emoji need the two
    r"|[A-Za-z]\u00ad[A-Za-z]\u00ad[A-Za-z]\u00ad"  # hyphenation is never by the letter
    r"|[\u202a-\u202e\u2066-\u2069]"
    r"|[\ufe00-\ufe0f\U000e0100-\U000e01ef]{2}"
    r"|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e007f]"  # not in a flag of England
    rf"|[{INVISIBLE}]{{8}}"
    r"|[\x00-\x08\x0e-\x1b\x7f]"
    r"|(?<![\s\u2800])[\s\u2800]{200}"
)
"""What is searched for in the raw text."""
