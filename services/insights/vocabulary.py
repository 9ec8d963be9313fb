"""The English words that the extractive method knows."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# An utterance that ends, or begins, like this was cut in the middle of a sentence.
DANGLING = _words(
    """
    a an the to of by for and or but with from until till will would please we i my your our their his her
    """
)
CONTINUING = _words("by until till to of for from with before within than next")
# "May" and "march" are verbs more often than months.
PROPER = _words(
    """
    monday tuesday wednesday thursday friday saturday sunday january february april june july august september
    october november december english german french
    """
)
# Words without weight.
STOP = _words(
    """
    a an the and or but if then so as at by for from in into of off on onto out over to up with about after
    before i you he she it we they me him her us them my your his its our their this that these those there here
    is am are was were be been being do does did have has had will would can could shall should may might must
    not no yes okay ok well just very really also too what which who whom when where why how all any both each
    few more most other some such only own same than now again once much many one lot get got go going let's i'm
    i'll we'll it's that's don't think know mean say said says want need thing things kind like right good great
    everyone anyone uh um
    """
)
# Said for the sake of good manners or of the agenda, not of the matter.
PHATIC = _words(
    """
    hello hi hey welcome thank thanks bye goodbye morning evening weekend afternoon everybody everything cheers
    question questions talk
    """
)
# A sentence that begins like this rests on the one before.
POINTING = _words("that this it they he she those these")
# How questions begin that nobody has put a question mark to.
ASKING = _words("what who whom whose where when why how does do did is are can could would shall")
# Before a word of deciding these turn it into something else than a decision.
UNDECIDED = _words(
    """
    if whether unless until till before once after when should did do does have has not never haven't hasn't
    didn't don't don’t can could must need what who why
    """
)
# What people are asked to do after meetings.
DOING = _words(
    """
    add address adjust allocate analyse analyze announce answer approve arrange ask assemble assign attach audit
    book build buy call cancel change check circulate clarify clean close collect compare compile complete
    configure confirm consult contact contract convert coordinate copy correct create debug define delete
    deliver deploy describe design determine develop discuss distribute document double-check download draft
    draw edit email e-mail enable escalate estimate evaluate examine execute explore export extend file fill
    finalise finalize finish fix follow forward gather generate get handle hand hire implement import improve
    inform inspect install interview introduce investigate invite invoice issue join launch list log mail make
    manage measure merge message migrate modify negotiate notify obtain order organise organize outline pay
    phone pick plan post prepare present print process procure produce propose provide publish purchase put
    raise recruit register release remove renew repair replace reply report request research reserve resolve
    respond return review revise ring run schedule search send set setup share ship sign sort speak submit
    summarise summarize switch talk test text track train translate transfer try turn update upgrade upload
    verify visit work write
    """
)
# Done in the meeting itself when somebody says "I will" or "please".
AT_ONCE = _words(
    """
    share explain list talk speak answer present ask introduce turn try outline add get discuss
    """
)
# "Peter will send it" is of no use to a reader.
VAGUE = _words("it that this them these those you him her me us")
# Never somebody who does a task.
NOBODY = _words(
    """
    it this that these those there here he she they we you i who which what when where how why whoever whatever
    everything nothing something anything nobody noone everyone everybody somebody someone anyone anybody people
    and or but so if then because as than also just only not now today tomorrow yesterday maybe perhaps please
    yes no okay ok well uh um oh one ones both all some many most few each other others time times thing things
    way the a an my your our his her its their going want wants wanted need needs needed have has had used able
    ready nice good great hard easy important happy sure willing like love hope plan plans try trying him them
    us me sales prices costs rain weather work life world meeting budget project company customers clients users
    website software product system server order
    """
)
# Before a name these make a condition or a question of what follows.
BEFORE_SOMEBODY = _words(
    """
    if when unless whether before after until once that's will would could should did does the
    """
)
# At the end of a task these belong to what came after it.
LEADING_NOWHERE = _words("by until till before and then so but or also please okay ok thanks")
PREPOSITIONS = _words("to for in with from at about")
