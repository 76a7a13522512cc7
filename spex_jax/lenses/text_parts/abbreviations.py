"""Abbreviations, and words beside them that show whether a sentence ends there; all in lower case."""

__all__ = ["BEFORE_LETTER", "BEFORE_NUMBER", "CLOCK", "DAYS", "MAY_END", "NEVER", "STARTERS", "TITLES"]


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


# No sentence ends with these.
NEVER = _listed(
    """
    v mr mrs ms messrs dr drs prof profs figs eqs eqn eqns secs refs vols vs cf viz approx esp incl e.g i.e eg bzw
    ca vgl ggf evtl inkl exkl zzgl bspw sog geb gest z.b d.h u.a i.d.r o.g s.o s.u v.a mme mmes mlle mlles sra
    srta srtas sres sras uds dott др ул гн डॉ डा प्रो श्री रु कु सं
    """
)
# No sentence ends with these where they begin with a capital; otherwise some are words.
TITLES = _listed(
    """
    pvt det supt ald dra av mx gen col capt cmdr lt maj sgt cpl adm sen rep gov pres rev hon sts mt ft fa hr hrn
    fr frl dipl ing mgr doña ud ee sig sigg avv
    """
)
# No sentence ends with these where a number follows.
BEFORE_NUMBER = _listed(
    """
    abschn mind no nos nr nrn fig eq sec sect ch chap vol art arts ref app tab abb kap abs bd bsp p pp pg par para
    ex thm lem prop def ver v l ll str lfg anm op min max tel fax ext std núm nº pág págs cap vers jan feb mar apr
    jun jul aug sep sept oct nov dec okt dez
    """
)
# A sentence may end with these, and does where the next word usually begins one.
MAY_END = _listed(
    """
    st inc ltd corp co llc bros jr sr esq ph.d m.d d.phil ave blvd rd sq dept univ assn est gmbh ag mio mrd fla
    calif mass mich
    """
)
# No sentence ends with these before a day, a number or a time zone.
CLOCK = _listed(
    """
    a.m p.m
    """
)
DAYS = _listed(
    """
    monday tuesday wednesday thursday friday saturday sunday mon tue wed thu fri sat sun est edt cst cdt mst mdt
    pst pdt gmt utc cet
    """
)
# Words that begin a sentence far more often than they follow an initial, a company or a country within one.
STARTERS = _listed(
    """
    a after all also although an and another any are as at because before both but by can did do does each even
    every finally first for from given had has have he hence her here his how however i if in indeed instead is it
    its just last later let many maybe meanwhile most my never next no nobody none nor not nothing now of on once
    one only or other others our perhaps please s she since so some soon still such that the their then there
    therefore these they this those though thus to today together two under unless until was we were what when
    where whether which while who why will with without would yes yet you your aber als am auch auf bei da dann
    danach das dass der die dies dieser doch ein eine er es für hier ich ihr im jede man mit nach nun nur ob oder
    sie und von vor warum wenn wer wie wir wo zu el ella ellos la las los una ese esta este pero cuando il elle
    ils elles le les une mais quand dans
    """
)
# A single letter after these is a label, not the initial of a person.
BEFORE_LETTER = _listed(
    """
    option options answer answers choice plan vitamin grade type part class group appendix section level hepatitis
    team model category version case exhibit figure block room point step size letter and or
    """
)
