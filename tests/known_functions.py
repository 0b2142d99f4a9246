"Functions of published benchmarks, by their definitions there, on tables of uniform inputs."
import numpy as np
from sklearn.datasets import make_friedman1, make_friedman2, make_friedman3

BOREHOLE = dict(rw=(.05, .15), r=(100, 50000), Tu=(63070, 115600), Hu=(990, 1110), Tl=(63.1, 116), Hl=(700, 820),
                L=(1120, 1680), Kw=(9855, 12045))
CIRCUIT = dict(Rb1=(50, 150), Rb2=(25, 70), Rf=(.5, 3), Rc1=(1.2, 2.5), Rc2=(.25, 1.2), beta=(50, 300))
PISTON = dict(M=(30, 60), S=(.005, .020), V0=(.002, .010), k=(1000, 5000), P0=(90000, 110000), Ta=(290, 296),
              T0=(340, 360))
WING = dict(Sw=(150, 200), Wfw=(220, 300), A=(6, 10), sweep=(-10, 10), q=(16, 45), taper=(.5, 1), tc=(.08, .18),
            Nz=(2.5, 6), Wdg=(1700, 2500), Wp=(.025, .08))
ARM = {f'theta{i}': (0, 2*np.pi) for i in range(1, 5)} | {f'L{i}': (0, 1) for i in range(1, 5)}

def borehole(rw, r, Tu, Hu, Tl, Hl, L, Kw):
    "Flow of water through a borehole, m³ a year (Harper and Gupta 1983; Morris, Mitchell and Ylvisaker 1993)."
    log = np.log(r/rw)
    return 2*np.pi*Tu*(Hu - Hl)/(log*(1 + 2*L*Tu/(log*rw**2*Kw) + Tu/Tl))

def circuit(Rb1, Rb2, Rf, Rc1, Rc2, beta):
    "Midpoint voltage of an output transformerless push-pull circuit (Ben-Ari and Steinberg 2007)."
    Vb1, gain = 12*Rb2/(Rb1 + Rb2), beta*(Rc2 + 9)
    return ((Vb1 + .74)*gain + 11.35*Rf + .74*Rf*gain/Rc1)/(gain + Rf)

def piston(M, S, V0, k, P0, Ta, T0):
    "Cycle time of a piston, seconds (Kenett and Zacks 1998)."
    A = P0*S + 19.62*M - k*V0/S
    V = S/(2*k)*(np.sqrt(A**2 + 4*k*P0*V0*Ta/T0) - A)
    return 2*np.pi*np.sqrt(M/(k + S**2*P0*V0*Ta/(T0*V**2)))

def wing_weight(Sw, Wfw, A, sweep, q, taper, tc, Nz, Wdg, Wp):
    "Weight of a light aircraft's wing, pounds (Forrester, Sobester and Keane 2008)."
    cos = np.cos(np.deg2rad(sweep))
    return (.036*Sw**.758*Wfw**.0035*(A/cos**2)**.6*q**.006*taper**.04*(100*tc/cos)**-.3*(Nz*Wdg)**.49 + Sw*Wp)

def robot_arm(theta1, theta2, theta3, theta4, L1, L2, L3, L4):
    "Distance of the end of an arm of four segments from its shoulder (An and Owen 2001)."
    angle = np.cumsum([theta1, theta2, theta3, theta4], 0)
    length = np.stack([L1, L2, L3, L4])
    return np.hypot((length*np.cos(angle)).sum(0), (length*np.sin(angle)).sum(0))

SIMULATORS = dict(borehole=(borehole, BOREHOLE), circuit=(circuit, CIRCUIT), piston=(piston, PISTON),
                  wing_weight=(wing_weight, WING), robot_arm=(robot_arm, ARM))
FRIEDMAN = dict(friedman1=(make_friedman1, 1.), friedman2=(make_friedman2, 125.), friedman3=(make_friedman3, .1))
KNOWN = (*FRIEDMAN, *SIMULATORS)

def known_table(name, n, seed):
    "X (n, m), y with the noise of Friedman (1991), which simulators do not have, and y without noise."
    if name in FRIEDMAN:
        make, noise = FRIEDMAN[name]
        X, f = make(n, noise=0., random_state=seed)
        return X, f + noise*np.random.default_rng(seed).standard_normal(n), f
    f, domain = SIMULATORS[name]
    low, high = np.array(list(domain.values())).T
    X = np.random.default_rng(seed).uniform(low, high, (n, len(low)))
    y = f(*X.T)
    return X, y, y
