"""The methods that are compared, ours and other packages', in one form: a game and a budget in, predictions out."""

from compared.contender import Answer, Contender, Unsuitable, asked_of
from compared.own import OWN
from compared.peers import PEERS

__all__ = ["CONTENDERS", "OWN", "PEERS", "Answer", "Contender", "Unsuitable", "asked_of"]

CONTENDERS: dict[str, Contender] = {contender.name: contender for contender in (*OWN, *PEERS)}
