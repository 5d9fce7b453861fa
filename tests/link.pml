/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The link protocol of src/model, for spin: what step.c, link.c, agent.c and job.c do about links between a
 * producer's VM and a consumer's, whatever clients, agents, processes and time do meanwhile. Names are those of
 * the code, and so is the order of what happens; an inline stands for the function of that name.
 * tests/check-protocol runs it.
 *
 * The broker deals with one event after the other, each to its end (model_settle()), and sends batches in
 * between, as its loop does. Everything else happens at any time: agents run what they were asked, answer with
 * 0 or an errno, or do not; calls time out; sockets close, with answers in them and without; processes die,
 * with a pidfd on them and without; agents attach after others or take over from them, in the old process or
 * another one, withdraw, offer and detach; clients connect, disconnect, park, resume and leave.
 *
 * What is plugged is told by `plugged`, the kernels' truth, which the broker cannot see. The rules below are
 * held against that truth, not against what the broker believes. Those of check_at_rest() hold whenever nothing
 * is under way, and say what must have become of everything by then. Whoever waits for an answer for ever is an
 * invalid end state. As every event but the broker's calls uses up one of the bounds, any cycle is a livelock:
 * pan -l finds that there is none.
 *
 * Left out: eventfd/ ends and relays, Move, several links in one call, rights, the vault. Bounds: one consumer
 * and PRODUCERS producers a link; LINKS links at a time; two agents for each site, the second after the first
 * or taking over from it; and so many calls and mishaps as below.
 *
 * BUG_1 to BUG_15 are mistakes that have to be found: 1 to 10 made up, 11 to 15 such as the code once made.
 */
#ifndef LINKS
#define LINKS 2 /* one may be gone, and wait for its dirty ends, while the next is connected */
#endif
#ifndef PRODUCERS
#define PRODUCERS 1
#endif
#ifndef CONNECTS
#define CONNECTS 2
#endif
#ifndef DISCONNECTS
#define DISCONNECTS 1
#endif
#ifndef CHANGES
#define CHANGES 0 /* Leave, Park, Resume */
#endif
#ifndef GOINGS
#define GOINGS 0 /* Detach, Withdraw and Offer */
#endif
#ifndef MISHAPS
#define MISHAPS 1 /* time-outs, errnos, sockets that close, deaths */
#endif
#ifndef SUCCESSORS
#define SUCCESSORS 1
#endif
#ifndef LATECOMERS
#define LATECOMERS 0 /* 1: the first agents come when they like, also after Connect */
#endif

#define PER_LINK (PRODUCERS + 1)
#define ENDS (LINKS * PER_LINK)
#define AGENTS 4
#define NOBODY 4

/* Sites: 0 is the producers', 1 the consumers'. Agents 0 and 1 are of site 0, 2 and 3 of site 1. */
#define IS_PRODUCER(e) ((e) % PER_LINK != PRODUCERS)
#define SITE(e) ((e) % PER_LINK / PRODUCERS)
#define LINK(e) ((e) / PER_LINK)
/* The ends of a link are one behind the other, the consumer last. */
#define FIRST(l) ((l) * PER_LINK)
#define LAST(l) ((l) * PER_LINK + PRODUCERS)
#define CONSUMER(e) LAST(LINK(e))
#define SITE_OF(a) ((a) / 2)

/* enum end_state */
#define END_ABSENT 0
#define END_UNPLUGGED 1
#define END_PLUGGING 2
#define END_PLUGGED 3
#define END_UNPLUGGING 4
#define END_UNKNOWN 5

/* enum op */
#define OP_NONE 0
#define OP_PLUG 1
#define OP_UNPLUG 2

/* enum link_goal */
#define GOAL_UP 0
#define GOAL_PARKED 1
#define GOAL_DOWN 2

/* enum job_kind */
#define JOB_NONE 0
#define JOB_CONNECT 1
#define JOB_DISCONNECT 2
#define JOB_PARK 3
#define JOB_RESUME 4
#define JOB_LEAVE 5

/* What an agent is asked, as far as it has come */
#define CALL_NONE 0
#define CALL_SENT 1
#define CALL_ANSWERED 2

/* What an agent has plugged. Forgiven: its successor was asked to unplug it, and its process is another one. */
#define PLUGGED_NOT 0
#define PLUGGED 1
#define PLUGGED_FORGIVEN 2

typedef end_type {
    unsigned state : 3;
    unsigned queued : 2;
    unsigned agent : 3;
    bit there;
    bit flying;
    bit dirty;
    bit refused;
    bit busy_errno; /* refused with EBUSY */
    bit renewed;
    bit inherited; /* dirty for what another agent had plugged */
    bit retiring;
    bit joined;
    bit announced;
    /* what others were told */
    bit member;  /* somebody saw it plugged in a link that he knew of, and did not see it go */
    bit leaving; /* `leaving` was told, `left` was not */
    bit left;    /* `left` was told of it for the last time */
};

typedef link_type {
    unsigned goal : 2;
    unsigned job : 3;
    bit there;
    bit fault; /* of its job */
    bit acknowledged;
    bit named;
    bit touched;
    bit renew;
};

typedef agent_type {
    bit there;
    bit leaving;
    bit late;
    bit lost;
    bit watched;
    bit withdrawn;  /* its endpoint: not offered */
    bit waited_for; /* by Detach or Withdraw */
    unsigned flying : 2;
    /* its own */
    bit closed; /* its socket */
    bit again;  /* in the process of the one before */
    unsigned call : 2;
    unsigned op : 2;
    byte items;  /* of the call: ends */
    byte errors; /* of the answer */
    byte ebusys; /* those that are EBUSY */
};

typedef site_type {
    unsigned agent : 3;
    unsigned successor : 3;
    bit waits; /* somebody waits for Detach's or Withdraw's answer */
    bit dead[2];
};

end_type ends[ENDS];
link_type links[LINKS];
agent_type agents[AGENTS + 1]; /* the last one is NOBODY: lost and leaving */
site_type sites[2];
byte plugged[AGENTS * ENDS]; /* by process: each is numbered as the first agent in it */

bit ready, started, waits_for_change, waits_for_disconnect;
byte connects = CONNECTS, disconnects = DISCONNECTS, changes = CHANGES, goings = GOINGS, mishaps = MISHAPS;

#define PROCESS(a) ((a) - agents[a].again)
#define IS_ASKED_TO_PLUG(a, e) \
    (agents[a].call == CALL_SENT && agents[a].op == OP_PLUG && (agents[a].items & (1 << (e))))
#define IS_DEAD(a) sites[SITE_OF(a)].dead[PROCESS(a) % 2]
#define AT(a, e) plugged[PROCESS(a) * ENDS + (e)]

/*
 * The rules. Nothing sets these: they are there to have pan say which one was broken.
 *
 * dropped_while_plugged      a reference goes only when nothing is, or is about to be, plugged with it
 * producers_unplugged_first  as a link goes down
 * consumers_plugged_first    as far as they are there
 * unplugged_before           what an agent's predecessor left is, before Plug is asked for
 * plugged_twice              what is plugged, or what another link has plugged there, is unplugged first
 * plugged_after_left         nothing is plugged after `left` was told for the last time
 * leaving_is_told            before an end that others knew is unplugged
 * leaving_told_twice         without `left` in between
 * left_is_told               once it has left
 * left_without_leaving       `leaving` comes first
 * left_while_plugged         `left` is told of what is unplugged, or its agent lost
 * answered_early             Connect says what came of it, Disconnect that all is unplugged that can be
 * answered_twice             each call is answered once,
 * is_answered                and each call is answered
 * let_go_early               Detach and Withdraw are answered when all is unplugged that can be
 * is_detached, is_freed      nothing is left of what is over
 * is_plugged, is_unplugged   everything gets to where it is wanted, unless an agent does not answer or refuses
 * late_for_ever              who has answered is late no more
 */
hidden byte dropped_while_plugged, producers_unplugged_first, consumers_plugged_first, plugged_twice,
    unplugged_before, plugged_after_left, leaving_is_told, leaving_told_twice, left_is_told,
    left_without_leaving, left_while_plugged, answered_early, answered_twice, is_answered, let_go_early, is_detached, is_freed,
    is_plugged, is_unplugged, late_for_ever;
#define MUST(rule, condition) assert(rule || (condition))

/* Used within one step of the broker only: no part of the state. */
hidden byte i, k, n, owner, other, moving, operation;
hidden byte busy, clean, moves, late;

/* ---- What is wanted ------------------------------------------------------------------------------------ */

#define SERVES(a) (!agents[a].leaving && !agents[a].withdrawn)
#define SUCCESSOR_AT(s) (SERVES(sites[s].successor) -> sites[s].successor : NOBODY)
#define OWNER_AT(s) (SERVES(sites[s].agent) -> sites[s].agent : SUCCESSOR_AT(s))
#define OWNER(e) OWNER_AT(SITE(e))
#define IS_PRESENT(e) (SERVES(sites[SITE(e)].agent) || SERVES(sites[SITE(e)].successor))

#define IS_WANTED(e) \
    (links[LINK(e)].goal != GOAL_DOWN && (links[LINK(e)].goal != GOAL_PARKED || IS_PRODUCER(e)) && \
        !ends[e].retiring && !links[LINK(e)].renew && IS_PRESENT(e))
#define IS_STAYING(e) (links[LINK(e)].goal != GOAL_DOWN && !ends[e].retiring && IS_PRESENT(e))
#define IS_REACHABLE(e) (!agents[ends[e].agent].lost && !agents[ends[e].agent].late)
#ifdef BUG_11 /* offered again before it was unplugged: what is left of its leaving comes with the next one */
#define IS_ON_ITS_WAY(e) false
#else
#define IS_ON_ITS_WAY(e) ends[e].announced
#endif
#define IS_AT_REST(e) \
    (ends[e].state == END_PLUGGED && IS_WANTED(e) && ends[e].agent == OWNER(e) && !IS_ON_ITS_WAY(e))
#define ARE_STARTED (LATECOMERS || started)
#define IS_GONE(l) (links[l].there && !links[l].named && links[l].goal == GOAL_DOWN)

#if LINKS == 2
#define OTHER(e) (((e) + PER_LINK) % ENDS)
#define IS_BLOCKED(e) (ends[OTHER(e)].there && ends[OTHER(e)].dirty && IS_GONE(LINK(OTHER(e))))
#define IS_BLOCKED_FOR_NOW(e) (IS_BLOCKED(e) && IS_REACHABLE(OTHER(e)) && !ends[OTHER(e)].refused)
#else
#define IS_BLOCKED(e) false
#define IS_BLOCKED_FOR_NOW(e) false
#endif

#define IS_HELD_UP(e) \
    (!ends[e].flying && !ends[e].dirty && !ends[e].refused && IS_WANTED(e) && IS_REACHABLE(e) && \
        IS_BLOCKED_FOR_NOW(e))

/* any_end_moves(), each for its side: the result is in moves. */
inline any_producer_moves(l)
{
    moves = false;
    for (k : FIRST(l) .. LAST(l) - 1) {
        if
        :: ends[k].there && IS_REACHABLE(k) && !ends[k].refused && ends[k].dirty && !IS_AT_REST(k) ->
            moves = true
        :: else
        fi
    }
}

inline any_consumer_moves(l)
{
    k = LAST(l);
    moves = ends[k].there && IS_REACHABLE(k) && !ends[k].refused && IS_WANTED(k) && !IS_AT_REST(k)
}

inline link_touch(l)
{
    links[l].touched = true
}

inline touch_other(e)
{
#if LINKS == 2
    if
    :: ends[OTHER(e)].there && !IS_GONE(LINK(OTHER(e))) -> link_touch(LINK(OTHER(e)))
    :: else
    fi
#else
    skip
#endif
}

inline site_touch(s)
{
    for (i : 0 .. ENDS - 1) {
        if
        :: ends[i].there && SITE(i) == s ->
            ends[i].refused = false;
            link_touch(LINK(i))
        :: else
        fi
    }
}

inline end_set_agent(e, a)
{
    if
    :: ends[e].agent != a ->
        ends[e].queued = OP_NONE;
        ends[e].agent = a
    :: else
    fi
}

#ifdef BUG_8
#define HAS_TO_GO(e) (ends[e].dirty && !(ends[e].inherited && IS_WANTED(e)))
#else
#define HAS_TO_GO(e) ends[e].dirty
#endif

inline next_op(e)
{
    operation = OP_NONE;
    if
    :: ends[e].flying || ends[e].refused || !IS_REACHABLE(e) || IS_AT_REST(e)
    :: else ->
        if
        :: HAS_TO_GO(e) ->
            moves = false;
#ifndef BUG_1
            if
            :: !IS_PRODUCER(e) -> any_producer_moves(LINK(e))
            :: else
            fi;
#endif
            operation = (moves -> OP_NONE : OP_UNPLUG)
        :: !HAS_TO_GO(e) && IS_WANTED(e) ->
            moves = false;
#ifndef BUG_2
            if
            :: IS_PRODUCER(e) -> any_consumer_moves(LINK(e))
            :: else
            fi;
#endif
            operation = (moves || IS_BLOCKED(e) -> OP_NONE : OP_PLUG)
        :: else
        fi
    fi
}

/* ---- What is known ------------------------------------------------------------------------------------- */

inline bind_end(e)
{
    if
    :: ends[e].flying
    :: !ends[e].flying && !ends[e].dirty ->
        owner = OWNER(e);
        end_set_agent(e, owner);
        ends[e].state = (owner == NOBODY -> END_ABSENT : END_UNPLUGGED);
        if
        :: owner == NOBODY -> ends[e].refused = false
        :: else
        fi
    :: !ends[e].flying && ends[e].dirty && agents[ends[e].agent].lost ->
        owner = sites[SITE(e)].agent;
        if
        :: owner != NOBODY ->
            end_set_agent(e, owner);
            ends[e].inherited = true
        :: else
        fi;
        ends[e].state = (agents[ends[e].agent].lost -> END_ABSENT : END_UNKNOWN)
    :: else
    fi
}

/* The last reference to a link's eventfd goes: nothing may be plugged with it, nor about to be. */
inline drop_reference(l)
{
    printf("link %d drops its eventfd\n", l);
    for (i : 0 .. AGENTS - 1) {
        for (k : FIRST(l) .. LAST(l)) {
            MUST(dropped_while_plugged, plugged[i * ENDS + k] != PLUGGED);
            MUST(dropped_while_plugged, !IS_ASKED_TO_PLUG(i, k));
            plugged[i * ENDS + k] = PLUGGED_NOT;
            agents[i].items = agents[i].items & ~(1 << k)
        }
    }
}

inline renew_eventfd(l)
{
    clean = true;
    for (i : FIRST(l) .. LAST(l)) {
        clean = clean && !ends[i].dirty && !ends[i].flying
    }
    if
    :: clean ->
        links[l].renew = false;
        drop_reference(l)
    :: else
    fi
}

/* ---- What is told -------------------------------------------------------------------------------------- */

inline tell_leaving(e)
{
    printf("end %d: leaving\n", e);
    MUST(leaving_told_twice, !ends[e].leaving);
    ends[e].leaving = true
}

/* Whoever is told may go on as if it were unplugged. What a lost one's process has is another matter. */
inline tell_left(e)
{
    printf("end %d: left\n", e);
    MUST(left_without_leaving, ends[e].leaving);
    for (k : SITE(e) * 2 .. SITE(e) * 2 + 1) {
        if
        :: agents[k].there && !agents[k].lost ->
            MUST(left_while_plugged, AT(k, e) != PLUGGED);
            MUST(left_while_plugged, !IS_ASKED_TO_PLUG(k, e))
        :: else
        fi
    }
    ends[e].leaving = false;
    ends[e].member = false;
    ends[e].left = links[LINK(e)].goal == GOAL_DOWN || ends[e].retiring
}

inline announce_leaving(e)
{
    if
    :: ends[e].state == END_PLUGGED && links[LINK(e)].acknowledged && IS_STAYING(e) -> ends[e].joined = true
    :: else
    fi;
    if
#ifdef BUG_6
    :: ends[e].joined && !IS_STAYING(e) ->
#else
    :: ends[e].joined && !ends[e].announced && !IS_STAYING(e) ->
#endif
        ends[e].announced = true;
        tell_leaving(e)
    :: else
    fi
}

inline announce_left(e)
{
    if
#ifdef BUG_7
    :: ends[e].announced && !ends[e].flying && !ends[e].dirty ->
#else
    :: ends[e].announced && !ends[e].flying && !(ends[e].dirty && !agents[ends[e].agent].lost) ->
#endif
        ends[e].joined = false;
        ends[e].announced = false;
        tell_left(e)
    :: else
    fi
}

/* ---- Jobs ---------------------------------------------------------------------------------------------- */

/* Each of these waits for one answer at a time: to a second one nobody listens. */
inline answer(l)
{
    printf("link %d: call %d is answered, failed: %d\n", l, links[l].job, links[l].fault);
    if
    :: links[l].job == JOB_DISCONNECT ->
        MUST(answered_twice, waits_for_disconnect);
        waits_for_disconnect = false
    :: else ->
        MUST(answered_twice, waits_for_change);
        waits_for_change = false
    fi;
    if
    :: links[l].job == JOB_CONNECT && !links[l].fault ->
        /* What is there is plugged. */
        for (i : FIRST(l) .. LAST(l)) {
            owner = OWNER(i);
            MUST(answered_early,
                owner == NOBODY || AT(owner, i) == PLUGGED || IS_DEAD(owner) || agents[owner].closed)
        }
    :: (links[l].job == JOB_DISCONNECT || links[l].job == JOB_CONNECT) && links[l].goal == GOAL_DOWN ->
        /* What can be unplugged is. */
        for (i : FIRST(l) .. LAST(l)) {
            owner = OWNER(i);
            MUST(answered_early,
                owner == NOBODY || AT(owner, i) != PLUGGED || agents[owner].late || ends[i].refused)
        }
    :: else
    fi;
    links[l].job = JOB_NONE;
    links[l].fault = false
}

inline job_fail(l)
{
    if
    :: !links[l].fault ->
        links[l].fault = true;
        if
        :: links[l].job == JOB_CONNECT ->
            links[l].goal = GOAL_DOWN;
            link_touch(l)
        :: links[l].job == JOB_RESUME ->
            links[l].goal = GOAL_PARKED;
            link_touch(l)
        :: else
        fi
    :: else
    fi
}

inline link_dispose(l)
{
    links[l].named = false;
    link_touch(l)
}

inline job_finish(l)
{
    answer(l);
    if
    :: links[l].goal == GOAL_DOWN -> link_dispose(l)
    :: links[l].goal != GOAL_DOWN && !links[l].acknowledged ->
        links[l].acknowledged = true;
        link_touch(l)
    :: else
    fi
}

/* ---- What is done -------------------------------------------------------------------------------------- */

inline end_remove(e)
{
    touch_other(e); /* leave_site(): those that it was in the way of */
    ends[e].there = false;
    ends[e].state = END_ABSENT;
    ends[e].queued = OP_NONE;
    ends[e].agent = NOBODY;
    ends[e].flying = false;
    ends[e].dirty = false;
    ends[e].inherited = false;
    ends[e].refused = false;
    ends[e].busy_errno = false;
    ends[e].renewed = false;
    ends[e].retiring = false;
    ends[e].joined = false;
    ends[e].announced = false;
    MUST(left_is_told, !ends[e].leaving && !ends[e].member);
    ends[e].leaving = false;
    ends[e].member = false;
    ends[e].left = false
}

inline link_free(l)
{
    drop_reference(l);
    for (i : FIRST(l) .. LAST(l)) {
        if
        :: ends[i].there -> end_remove(i)
        :: else
        fi
    }
    links[l].there = false;
    links[l].goal = GOAL_UP;
    links[l].acknowledged = false;
    links[l].touched = false;
    links[l].renew = false
}

inline fail_if_stuck(l)
{
    if
    :: links[l].goal == GOAL_UP && (links[l].job == JOB_CONNECT || links[l].job == JOB_RESUME) ->
        clean = true;
        for (i : FIRST(l) .. LAST(l)) {
            if
            :: ends[i].there &&
                    (ends[i].refused || (IS_WANTED(i) && agents[ends[i].agent].late && !IS_AT_REST(i))) ->
                clean = false
#ifndef BUG_15 /* what is in its way for good makes no call fail */
            :: ends[i].there && !ends[i].dirty && IS_WANTED(i) && IS_BLOCKED(i) && !IS_BLOCKED_FOR_NOW(i) ->
                clean = false
#endif
            :: else
            fi
        }
        if
        :: !clean -> job_fail(l)
        :: else
        fi
    :: else
    fi
}

inline link_step(l)
{
    if
    :: links[l].renew -> renew_eventfd(l)
    :: else
    fi;
    for (i : FIRST(l) .. LAST(l)) {
        if
        :: ends[i].there -> bind_end(i)
        :: else
        fi
    }
    for (i : FIRST(l) .. LAST(l)) {
        if
        :: ends[i].there -> announce_leaving(i)
        :: else
        fi
    }
    fail_if_stuck(l);
    busy = false;
    for (i : FIRST(l) .. LAST(l)) {
        if
        :: ends[i].there ->
            next_op(i);
            ends[i].queued = operation;
#ifdef BUG_9
            busy = busy || operation != OP_NONE || IS_HELD_UP(i) ||
                (ends[i].flying && IS_REACHABLE(i) && links[l].job != JOB_CONNECT)
#else
            busy = busy || operation != OP_NONE || (ends[i].flying && IS_REACHABLE(i)) || IS_HELD_UP(i)
#endif
        :: else
        fi
    }
    for (i : FIRST(l) .. LAST(l)) {
        if
        :: ends[i].there -> announce_left(i)
        :: else
        fi
    }
    /* remove_retired() */
    for (i : FIRST(l) .. LAST(l)) {
        if
        :: ends[i].there && links[l].named && ends[i].retiring && !ends[i].dirty && !ends[i].flying &&
                !ends[i].announced ->
            end_remove(i)
        :: else
        fi
    }
#ifndef BUG_14 /* whoever waits for this one to get out of the way is not looked at */
    if
    :: IS_GONE(l) ->
        for (i : FIRST(l) .. LAST(l)) {
            touch_other(i)
        }
    :: else
    fi;
#endif
    if
    :: busy || links[l].touched
    :: else ->
        clean = true;
        for (i : FIRST(l) .. LAST(l)) {
#ifdef BUG_4
            clean = clean && !ends[i].flying
#else
            clean = clean && !ends[i].dirty && !ends[i].flying
#endif
        }
        if
        :: links[l].job != JOB_NONE -> job_finish(l)
        :: links[l].job == JOB_NONE && links[l].goal == GOAL_DOWN && links[l].named -> link_dispose(l)
        :: links[l].job == JOB_NONE && !links[l].named && clean -> link_free(l)
        :: else
        fi
    fi
}

/* ---- Agents -------------------------------------------------------------------------------------------- */

inline came_clean(e)
{
    ends[e].dirty = false;
    ends[e].inherited = false;
    for (k : FIRST(LINK(e)) .. LAST(LINK(e))) {
        if
        :: ends[k].refused && ends[k].busy_errno -> ends[k].refused = false
        :: else
        fi
    }
}

/* Its waiters are answered. */
inline finish_agent_jobs(a)
{
    if
    :: agents[a].waited_for ->
        MUST(answered_twice, sites[SITE_OF(a)].waits);
        sites[SITE_OF(a)].waits = false;
        agents[a].waited_for = false
    :: else
    fi
}

inline lose_end(a, e)
{
    ends[e].queued = OP_NONE;
    ends[e].flying = false;
    ends[e].refused = false;
    ends[e].state = END_ABSENT;
    ends[e].renewed = ends[e].renewed && !ends[e].dirty;
    if
    :: links[LINK(e)].goal == GOAL_UP && links[LINK(e)].job == JOB_CONNECT -> job_fail(LINK(e))
    :: else
    fi;
    link_touch(LINK(e));
    if
    :: !ends[e].dirty || !agents[a].watched -> end_set_agent(e, NOBODY)
    :: else
    fi
}

inline forget_call(a)
{
    agents[a].call = CALL_NONE;
    agents[a].op = OP_NONE;
    agents[a].items = 0;
    agents[a].errors = 0;
    agents[a].ebusys = 0
}

/* That a successor was sent Unplug is all that can be done about what another process had. */
inline forgive(a, e)
{
    ends[e].inherited = false;
    for (k : SITE_OF(a) * 2 .. SITE_OF(a) * 2 + 1) {
        if
        :: plugged[k * ENDS + e] == PLUGGED && k != PROCESS(a) -> plugged[k * ENDS + e] = PLUGGED_FORGIVEN
        :: else
        fi
    }
}

inline lose(a)
{
    if
    :: !agents[a].lost ->
        agents[a].lost = true;
        agents[a].late = false;
        printf("agent %d is lost\n", a);
        for (i : 0 .. ENDS - 1) {
            if
            :: ends[i].agent == a && ends[i].flying && agents[a].flying == OP_UNPLUG -> forgive(a, i)
            :: else
            fi
        }
        agents[a].flying = OP_NONE;
        if
        :: sites[SITE_OF(a)].agent == a ->
            sites[SITE_OF(a)].agent = sites[SITE_OF(a)].successor;
            sites[SITE_OF(a)].successor = NOBODY;
            site_touch(SITE_OF(a))
        :: sites[SITE_OF(a)].successor == a ->
            sites[SITE_OF(a)].successor = NOBODY;
#ifndef BUG_12 /* its ends are not looked at */
            site_touch(SITE_OF(a))
#endif
        :: else
        fi;
        for (i : 0 .. ENDS - 1) {
            if
            :: ends[i].agent == a && ends[i].there -> lose_end(a, i)
            :: else
            fi
        }
        /* What it was about to answer nobody reads; what it has not read yet it may still do. */
        if
        :: agents[a].closed || agents[a].call == CALL_ANSWERED -> forget_call(a)
        :: else
        fi;
        agents[a].closed = true;
        finish_agent_jobs(a)
    :: else
    fi
}

/* has_to_unplug(): the result is in busy. */
inline has_to_unplug(a)
{
    busy = false;
#ifndef BUG_10
    for (i : 0 .. ENDS - 1) {
        if
        :: ends[i].there && ends[i].agent == a && ((ends[i].dirty && !ends[i].refused) || ends[i].flying) &&
                !SERVES(a) && !agents[a].late ->
            busy = true
        :: else
        fi
    }
#endif
}

/* Whoever detaches or withdraws may go on as if all were unplugged that can be. */
inline check_let_go(a)
{
    for (i : 0 .. ENDS - 1) {
        MUST(let_go_early, !ends[i].there || SITE(i) != SITE_OF(a) || AT(a, i) != PLUGGED || SERVES(a) ||
            agents[a].late || ends[i].refused)
    }
}

inline agents_go()
{
    for (n : 0 .. AGENTS - 1) {
        if
        :: agents[n].there && !agents[n].lost && agents[n].waited_for ->
            has_to_unplug(n);
            if
            :: !busy ->
                check_let_go(n);
                if
                :: agents[n].leaving -> lose(n)
                :: else -> finish_agent_jobs(n)
                fi
            :: else
            fi
        :: else
        fi;
        if
        :: agents[n].there && agents[n].lost ->
            clean = true;
            for (i : 0 .. ENDS - 1) {
                clean = clean && !(ends[i].there && ends[i].agent == n)
            }
            if
            :: clean ->
                agents[n].there = false; /* freed; what its process has is there still */
                agents[n].leaving = true;
                agents[n].withdrawn = false;
                agents[n].watched = false
            :: else
            fi
        :: else
        fi
    }
}

#ifdef BUG_5
#define IS_FORGOTTEN late
#else
#define IS_FORGOTTEN false
#endif

inline model_agent_results(a)
{
    printf("the broker reads the answer of agent %d\n", a);
    late = agents[a].late;
#ifndef BUG_5
    agents[a].late = false;
#endif
    for (i : 0 .. ENDS - 1) {
        if
        :: ends[i].there && ends[i].agent == a && ends[i].flying && !IS_FORGOTTEN ->
            assert(agents[a].items & (1 << i));
            ends[i].flying = false;
            if
            :: agents[a].flying == OP_PLUG && !(agents[a].errors & (1 << i)) ->
                ends[i].renewed = false;
                ends[i].state = (late -> END_UNKNOWN : END_PLUGGED)
            :: agents[a].flying == OP_PLUG && (agents[a].errors & (1 << i)) ->
                ends[i].dirty = false;
                ends[i].inherited = false;
                ends[i].state = END_UNPLUGGED;
                if
                :: late
                :: !late && (agents[a].ebusys & (1 << i)) && links[LINK(i)].acknowledged &&
                        !links[LINK(i)].renew && !ends[i].renewed && !IS_PRODUCER(i) ->
                    ends[i].renewed = true;
                    links[LINK(i)].renew = true
                :: else ->
                    ends[i].refused = true;
                    ends[i].busy_errno = (agents[a].ebusys & (1 << i)) != 0
                fi
            :: agents[a].flying == OP_UNPLUG && !(agents[a].errors & (1 << i)) ->
                came_clean(i);
                ends[i].state = END_UNPLUGGED;
                forgive(a, i);
                for (k : SITE_OF(a) * 2 .. SITE_OF(a) * 2 + 1) {
                    if
                    :: k != a -> agents[k].items = agents[k].items & ~(1 << i)
                    :: else
                    fi
                }
            :: else ->
                ends[i].refused = true;
                ends[i].busy_errno = false;
                ends[i].state = END_UNKNOWN
            fi;
            link_touch(LINK(i))
        :: else
        fi
    }
    agents[a].flying = (IS_FORGOTTEN -> agents[a].flying : OP_NONE);
    for (i : 0 .. ENDS - 1) {
        if
        :: late && ends[i].there && ends[i].agent == a -> link_touch(LINK(i))
        :: else
        fi
    }
    agents[a].call = CALL_NONE;
    agents[a].op = OP_NONE;
    agents[a].items = 0;
    agents[a].errors = 0;
    agents[a].ebusys = 0
}

inline model_agent_late(a)
{
    printf("agent %d is late\n", a);
    agents[a].late = true;
    for (i : 0 .. ENDS - 1) {
        if
        :: ends[i].there && ends[i].agent == a ->
            if
            :: ends[i].flying ->
                ends[i].state = END_UNKNOWN;
#ifdef BUG_3
                if
                :: agents[a].flying == OP_PLUG ->
                    ends[i].flying = false;
                    ends[i].dirty = false
                :: else
                fi
#endif
            :: else
            fi;
            link_touch(LINK(i))
        :: else
        fi
    }
}

inline model_agent_dead(a)
{
    printf("the pidfd of agent %d says that it is dead\n", a);
    lose(a);
    for (i : 0 .. ENDS - 1) {
        if
        :: ends[i].there && ends[i].agent == a ->
#ifndef BUG_13 /* what its predecessor had plugged did not die with it */
            if
            :: !ends[i].inherited -> came_clean(i)
            :: else
            fi;
#else
            came_clean(i);
#endif
            end_set_agent(i, NOBODY);
            link_touch(LINK(i))
        :: else
        fi
    }
}

/* The next batch is sent. */
inline model_agent_next(a)
{
    operation = OP_PLUG;
    for (i : 0 .. ENDS - 1) {
        if
        :: ends[i].agent == a && ends[i].queued == OP_UNPLUG -> operation = OP_UNPLUG
        :: else
        fi
    }
    agents[a].flying = operation;
    agents[a].call = CALL_SENT;
    agents[a].op = operation;
    for (i : 0 .. ENDS - 1) {
        if
        :: ends[i].agent == a && ends[i].queued == operation ->
            check_sent(a, i);
            printf("agent %d is sent end %d: %d (1 plug, 2 unplug)\n", a, i, operation);
            ends[i].queued = OP_NONE;
            ends[i].flying = true;
            ends[i].state = (operation == OP_PLUG -> END_PLUGGING : END_UNPLUGGING);
            if
            :: operation == OP_PLUG -> ends[i].dirty = true
            :: else
            fi;
            agents[a].items = agents[a].items | (1 << i)
        :: else
        fi
    }
}

/* ---- What has to be true ------------------------------------------------------------------------------- */

/* Whether somebody who can still be asked has this end plugged: the agent at k. */
#define IS_PLUGGED_AT(k, e) (agents[k].there && !agents[k].lost && !agents[k].late && AT(k, e) == PLUGGED)

/* Before an end is told to be plugged or unplugged. */
inline check_sent(a, e)
{
    if
    :: operation == OP_UNPLUG ->
        /* It was told that it leaves. */
        MUST(leaving_is_told, !ends[e].member || IS_STAYING(e) || ends[e].leaving);
        if
        :: !IS_PRODUCER(e) && (links[LINK(e)].goal == GOAL_DOWN || links[LINK(e)].renew) ->
            /* Producers are unplugged first. */
            for (k : FIRST(LINK(e)) .. LAST(LINK(e)) - 1) {
                MUST(producers_unplugged_first, ends[k].refused ||
                    !((ends[k].agent == 0 && IS_PLUGGED_AT(0, k)) ||
                        (ends[k].agent == 1 && IS_PLUGGED_AT(1, k))))
            }
        :: else
        fi
    :: operation == OP_PLUG ->
        MUST(plugged_after_left, !ends[e].left);
        MUST(unplugged_before, plugged[SITE(e) * 2 * ENDS + (e)] != PLUGGED);
        MUST(unplugged_before, plugged[(SITE(e) * 2 + 1) * ENDS + (e)] != PLUGGED);
        if
        :: IS_PRODUCER(e) ->
            /* Consumers are plugged first. */
            k = CONSUMER(e);
            owner = OWNER(k);
            MUST(consumers_plugged_first,
                links[LINK(e)].goal != GOAL_UP || !ends[k].there || ends[k].retiring || ends[k].refused ||
                agents[ends[k].agent].late || owner == NOBODY || agents[owner].late || agents[owner].closed ||
                IS_DEAD(owner) || AT(owner, k) == PLUGGED)
        :: else
        fi
    fi
}

/* Nothing is under way, and nothing happens unless somebody does something. */
inline check_at_rest()
{
    clean = true;
    for (i : 0 .. AGENTS - 1) {
        clean = clean &&
            !(agents[i].there && !agents[i].lost && agents[i].closed) &&
            !(agents[i].there && !agents[i].lost && !agents[i].late && agents[i].call != CALL_NONE) &&
            !(agents[i].there && agents[i].watched && IS_DEAD(i))
    }
    for (i : 0 .. ENDS - 1) {
        clean = clean && !(ends[i].there && ends[i].queued != OP_NONE && !agents[ends[i].agent].late)
    }
    if
    :: clean ->
        for (i : 0 .. AGENTS - 1) {
            /* Who is late has still to answer; who detached is gone. */
            MUST(late_for_ever, !(agents[i].there && agents[i].late && agents[i].call == CALL_NONE));
            MUST(is_detached, !(agents[i].there && !agents[i].lost && agents[i].leaving))
        }
        MUST(is_answered, !sites[0].waits && !sites[1].waits);
        for (n : 0 .. LINKS - 1) {
            MUST(is_answered, links[n].job == JOB_NONE);
            if
            :: links[n].there ->
                busy = false;
                for (i : FIRST(n) .. LAST(n)) {
                    if
                    :: ends[i].there -> check_end_at_rest(i)
                    :: else
                    fi
                }
                /* What is gone is freed, unless something of it may be plugged. */
                MUST(is_freed, links[n].goal != GOAL_DOWN || (!links[n].named && busy))
            :: else
            fi
        }
        MUST(is_answered, !waits_for_change && !waits_for_disconnect)
    :: else
    fi
}

inline check_end_at_rest(e)
{
    owner = OWNER(e);
    busy = busy || ends[e].dirty;
    /* Stuck is whose agent does not answer, or who was refused. */
    moving = ends[e].refused || agents[ends[e].agent].late;
    /* Nothing stale. */
    MUST(is_unplugged, moving || IS_WANTED(e) || !IS_PLUGGED_AT(SITE(e) * 2, e));
    MUST(is_unplugged, moving || IS_WANTED(e) || !IS_PLUGGED_AT(SITE(e) * 2 + 1, e));
    /* All that is wanted. */
    MUST(is_plugged, moving || !IS_WANTED(e) || IS_BLOCKED(e) || IS_BLOCKED(CONSUMER(e)) ||
        AT(owner, e) == PLUGGED || IS_DEAD(owner));
    /* What was told to leave has left. */
    MUST(left_is_told, moving || !ends[e].leaving)
}

/* Who is not there any more was told to leave; who is seen to be there will have to be. */
inline check_told()
{
    for (i : 0 .. ENDS - 1) {
        if
        :: ends[i].there ->
            MUST(leaving_is_told, !ends[i].member || IS_STAYING(i) || ends[i].leaving);
            if
            :: links[LINK(i)].acknowledged && ends[i].state == END_PLUGGED && IS_STAYING(i) ->
                ends[i].member = true
            :: else
            fi
        :: else
        fi
    }
}

/* ---- The broker ---------------------------------------------------------------------------------------- */

chan call = [0] of { byte, byte }; /* job kind, link; for JOB_LEAVE the end */
chan attach = [0] of { byte, bit, bit };
chan let_go = [0] of { byte, bit }; /* agent, whether for good */
chan offer = [0] of { byte };

#if LINKS == 2
#define FIRST_TOUCHED (links[0].touched -> 0 : 1)
#define ANY_TOUCHED (links[0].touched || links[1].touched)
#else
#define FIRST_TOUCHED 0
#define ANY_TOUCHED links[0].touched
#endif

inline model_settle()
{
    do
    :: ANY_TOUCHED ->
        n = FIRST_TOUCHED;
        links[n].touched = false;
        link_step(n)
    :: else ->
        agents_go();
        if
        :: ANY_TOUCHED
        :: else -> break
        fi
    od
}

inline model_connect(l)
{
    printf("Connect link %d\n", l);
    links[l].there = true;
    links[l].named = true;
    links[l].job = JOB_CONNECT;
    for (i : FIRST(l) .. LAST(l)) {
        ends[i].there = true;
        ends[i].agent = NOBODY
    }
    waits_for_change = true;
    link_touch(l)
}

inline pursue(l, wanted)
{
    printf("link %d is to be %d: 0 up, 1 parked, 2 down\n", l, wanted);
    links[l].goal = wanted;
    for (i : FIRST(l) .. LAST(l)) {
        ends[i].refused = false
    }
    link_touch(l)
}

inline model_disconnect(l)
{
    printf("Disconnect link %d\n", l);
    if
    :: links[l].job != JOB_NONE ->
        job_fail(l);
        answer(l)
    :: else
    fi;
    links[l].job = JOB_DISCONNECT;
    waits_for_disconnect = true;
    pursue(l, GOAL_DOWN)
}

inline model_leave(e)
{
    printf("Leave end %d\n", e);
    links[LINK(e)].job = JOB_LEAVE;
    waits_for_change = true;
    /* end_retire() */
    ends[e].retiring = true;
    ends[e].refused = false;
    clean = true;
    for (i : FIRST(LINK(e)) .. LAST(LINK(e))) {
        clean = clean && (IS_PRODUCER(i) != IS_PRODUCER(e) || ends[i].retiring || !ends[i].there)
    }
    if
    :: clean -> links[LINK(e)].goal = GOAL_DOWN
    :: else
    fi;
    link_touch(LINK(e))
}

inline model_attach(a, is_watched, is_again)
{
    printf("agent %d attaches, watched %d, in the old process %d\n", a, is_watched, is_again);
    agents[a].there = true;
    agents[a].leaving = false;
    agents[a].watched = is_watched;
    agents[a].again = is_again;
    if
    :: sites[SITE_OF(a)].agent != NOBODY -> sites[SITE_OF(a)].successor = a
    :: else -> sites[SITE_OF(a)].agent = a
    fi;
    site_touch(SITE_OF(a))
}

inline touch_ends(a)
{
    for (i : 0 .. ENDS - 1) {
        if
        :: ends[i].there && SITE(i) == SITE_OF(a) ->
            ends[i].refused = false;
            link_touch(LINK(i))
        :: else
        fi
    }
}

inline model_detach(a)
{
    printf("Detach agent %d\n", a);
    agents[a].leaving = true;
    for (i : 0 .. ENDS - 1) {
        if
        :: ends[i].there && ends[i].agent == a -> link_touch(LINK(i))
        :: else
        fi
    }
}

#define IS_ATTACHED(a) (agents[a].there && !agents[a].lost)
#define HAS_ANSWER(a) (IS_ATTACHED(a) && agents[a].call == CALL_ANSWERED)
#define HAS_CLOSED(a) (IS_ATTACHED(a) && agents[a].closed && agents[a].call != CALL_ANSWERED)
#define HAS_DIED(a) (agents[a].there && agents[a].watched && IS_DEAD(a))
#define MAY_BE_LATE(a) (IS_ATTACHED(a) && !agents[a].late && agents[a].flying != OP_NONE && mishaps > 0)
#define IS_QUEUED(a, e) (ends[e].agent == a && ends[e].queued != OP_NONE)
#if ENDS == 4
#define ANY_QUEUED(a) (IS_QUEUED(a, 0) || IS_QUEUED(a, 1) || IS_QUEUED(a, 2) || IS_QUEUED(a, 3))
#elif ENDS == 3
#define ANY_QUEUED(a) (IS_QUEUED(a, 0) || IS_QUEUED(a, 1) || IS_QUEUED(a, 2))
#elif ENDS == 2
#define ANY_QUEUED(a) (IS_QUEUED(a, 0) || IS_QUEUED(a, 1))
#endif
#define HAS_BATCH(a) (IS_ATTACHED(a) && agents[a].flying == OP_NONE && ANY_QUEUED(a))

/* Spin wants no d_step to end with a choice. */
#define DONE operation = OP_NONE

/* What everybody sees when an event has been dealt with. */
inline finish_event()
{
    model_settle();
    check_told();
    check_at_rest()
}

active proctype broker()
{
    byte what, which;
    bit first, second;

    d_step {
        for (i : 0 .. ENDS - 1) {
            ends[i].agent = NOBODY
        }
        for (i : 0 .. AGENTS) {
            agents[i].leaving = true
        }
        agents[NOBODY].lost = true;
        sites[0].agent = NOBODY;
        sites[0].successor = NOBODY;
        sites[1].agent = NOBODY;
        sites[1].successor = NOBODY
    }
    run session(0);
    run session(1);
    run session(2);
    run session(3);
    ready = true;
end:
    do
    :: atomic {
        if
        :: call?what,which ->
            d_step {
                if
                :: what == JOB_CONNECT -> model_connect(which)
                :: what == JOB_DISCONNECT -> model_disconnect(which)
                :: what == JOB_PARK ->
                    links[which].job = JOB_PARK;
                    waits_for_change = true;
                    pursue(which, GOAL_PARKED)
                :: what == JOB_RESUME ->
                    links[which].job = JOB_RESUME;
                    waits_for_change = true;
                    pursue(which, GOAL_UP)
                :: what == JOB_LEAVE -> model_leave(which)
                fi;
                DONE
            }
        :: attach?which,first,second ->
            d_step {
                started = started || which == 2;
                model_attach(which, first, second);
                DONE
            }
        :: let_go?which,first ->
            d_step {
                agents[which].waited_for = true;
                sites[SITE_OF(which)].waits = true;
                if
                :: first -> model_detach(which)
                :: else ->
                    printf("Withdraw, agent %d\n", which);
                    agents[which].withdrawn = true;
                    touch_ends(which)
                fi;
                DONE
            }
        :: offer?which ->
            d_step {
                printf("Offer, agent %d\n", which);
                agents[which].withdrawn = false;
                touch_ends(which);
                DONE
            }
        fi;
        d_step {
            finish_event();
            what = 0;
            which = 0;
            first = false;
            second = false
        }
    }
    od
}

/* The broker's half of an agent's connection: session.c. */
proctype session(byte a)
{
end:
    do
    :: d_step { HAS_BATCH(a) -> model_agent_next(a); DONE }
    :: atomic {
        if
        :: HAS_ANSWER(a) -> d_step { model_agent_results(a); DONE }
        :: HAS_CLOSED(a) -> d_step { lose(a); DONE }
        :: HAS_DIED(a) -> d_step { model_agent_dead(a); DONE }
        :: MAY_BE_LATE(a) ->
            d_step {
                mishaps--;
                model_agent_late(a);
                DONE
            }
        fi;
        d_step { finish_event(); DONE }
    }
    od
}

/* ---- Agents and their processes ------------------------------------------------------------------------ */

/* An eventfd is one irqfd only, whatever the VM. */
#define BESIDE(a) (SITE_OF(a) * 2 + 1 - PROCESS(a) % 2)
#define IS_ELSEWHERE(a, e) (!IS_PRODUCER(e) && plugged[BESIDE(a) * ENDS + (e)] != PLUGGED_NOT)

/* What the kernel says to each item; to one it may say no for reasons of its own. */
inline run_items(a, failing)
{
    printf("agent %d runs its call, failing end %d\n", a, failing);
    for (i : 0 .. ENDS - 1) {
        if
        :: !(agents[a].items & (1 << i))
        :: (agents[a].items & (1 << i)) && agents[a].op == OP_UNPLUG ->
            if
            :: i == failing -> agents[a].errors = agents[a].errors | (1 << i)
            :: else -> AT(a, i) = PLUGGED_NOT
            fi
        :: else ->
            if
            :: i == failing -> agents[a].errors = agents[a].errors | (1 << i)
            :: i != failing && IS_ELSEWHERE(a, i) ->
                agents[a].errors = agents[a].errors | (1 << i);
                agents[a].ebusys = agents[a].ebusys | (1 << i)
            :: else ->
                check_plug(a, i);
                AT(a, i) = PLUGGED
            fi
        fi
    }
    if
    :: agents[a].lost ->
        forget_call(a)
    :: else -> agents[a].call = CALL_ANSWERED
    fi
}

/* What is plugged twice, or where another link is still plugged, fails: nobody is to ask for that. */
inline check_plug(a, e)
{
    MUST(plugged_twice, AT(a, e) == PLUGGED_NOT);
#if LINKS == 2
    MUST(plugged_twice, AT(a, OTHER(e)) == PLUGGED_NOT);
#endif
    MUST(plugged_after_left, !ends[e].left || agents[a].lost)
}

/* A socket closes: what was not read of it before is lost with it. */
inline shut(a)
{
    printf("agent %d: its socket closes\n", a);
    agents[a].closed = true;
    if
    :: agents[a].call == CALL_SENT -> forget_call(a)
    :: else
    fi
}

inline die(a)
{
    printf("the process of agent %d dies\n", a);
    sites[SITE_OF(a)].dead[PROCESS(a) % 2] = true;
    for (i : 0 .. ENDS - 1) {
        AT(a, i) = PLUGGED_NOT
    }
    shut(a);
    if
    :: a % 2 == 0 && agents[a + 1].again -> shut(a + 1)
    :: else
    fi
}

#define CAN_ACT(a) (ARE_STARTED && !agents[a].closed && agents[a].there && mishaps > 0)
#define MAY_FAIL(a, e) (mishaps > 0 && !agents[a].lost && (agents[a].items & (1 << (e))))

proctype vmm(byte a)
{
    byte failing;

end:
    do
    :: atomic {
        agents[a].call == CALL_SENT && !IS_DEAD(a) && (!agents[a].closed || agents[a].lost) ->
        failing = ENDS;
        if
        :: true
        :: MAY_FAIL(a, 0) -> failing = 0; mishaps--
        :: MAY_FAIL(a, 1) -> failing = 1; mishaps--
#if ENDS > 2
        :: MAY_FAIL(a, 2) -> failing = 2; mishaps--
#endif
#if ENDS > 3
        :: MAY_FAIL(a, 3) -> failing = 3; mishaps--
#endif
        fi;
        d_step {
            run_items(a, failing);
            failing = 0
        }
    }
    :: d_step {
        CAN_ACT(a) ->
        mishaps--;
        shut(a);
        DONE
    }
    :: d_step {
        CAN_ACT(a) && agents[a].call == CALL_ANSWERED ->
        mishaps--;
        shut(a);
        forget_call(a);
        DONE
    }
    :: d_step {
        ARE_STARTED && agents[a].there && mishaps > 0 && !IS_DEAD(a) ->
        mishaps--;
        die(a);
        DONE
    }
    od
}

/* ---- Those who attach and detach agents ---------------------------------------------------------------- */

#define NEW (2 * (s))
#define NEXT (2 * (s) + 1)

#define MAY_COME (came == 0 && (LATECOMERS || s == 0 || sites[0].agent != NOBODY))
#define MAY_FOLLOW (ARE_STARTED && came == 1 && SUCCESSORS)
#define MAY_GO (ARE_STARTED && goings > 0 && !sites[s].waits && sites[s].agent != NOBODY)

proctype operator(bit s)
{
    byte came;

    do
    :: atomic { MAY_COME -> came = 1; attach!NEW,true,false }
    :: atomic { MAY_COME -> came = 1; attach!NEW,false,false }
    /* Another process: the old one's VM lives on, maybe. If its agent is attached, this one takes over. */
    :: atomic {
        MAY_FOLLOW && (sites[s].agent == NOBODY || !agents[NEW].leaving) ->
        came = 2;
        attach!NEXT,true,false
    }
    /* The same process, once it is done with what it was asked before. */
    :: atomic {
        MAY_FOLLOW && sites[s].agent == NOBODY && agents[NEW].call == CALL_NONE && !IS_DEAD(NEW) ->
        came = 2;
        attach!NEXT,true,true
    }
    :: atomic { MAY_GO -> goings--; let_go!sites[s].agent,true }
    :: atomic { MAY_GO && !agents[sites[s].agent].withdrawn -> goings--; let_go!sites[s].agent,false }
    :: atomic {
        sites[s].agent != NOBODY && !agents[sites[s].agent].leaving && agents[sites[s].agent].withdrawn ->
        offer!sites[s].agent
    }
    :: !sites[s].waits && timeout -> break
    od
}

/* ---- Clients ------------------------------------------------------------------------------------------- */

#define IS_FREE(l) (!links[l].there)
#define MAY_CHANGE(l) (links[l].there && links[l].acknowledged && links[l].named && links[l].goal != GOAL_DOWN)

/* end_place(): what is left of a link and can still be unplugged is not in the way. */
#define IS_NO_OBSTACLE(e) \
    (!ends[e].there || (IS_GONE(LINK(e)) && !ends[e].refused && !agents[ends[e].agent].late))
#if LINKS == 2
#define MAY_CONNECT(l) \
    (IS_FREE(l) && IS_NO_OBSTACLE((1 - (l)) * PER_LINK) && IS_NO_OBSTACLE((1 - (l)) * PER_LINK + PRODUCERS))
#else
#define MAY_CONNECT(l) IS_FREE(l)
#endif

#define IS_FREE_TO_CHANGE(l) (!waits_for_change && changes > 0 && MAY_CHANGE(l) && links[l].job == JOB_NONE)
#define MAY_LEAVE(e) (ends[e].there && !ends[e].retiring)

proctype client()
{
    do
    :: atomic {
        ARE_STARTED && !waits_for_change && connects > 0 && MAY_CONNECT(0) ->
        connects--;
        call!JOB_CONNECT,0
    }
#if LINKS == 2
    :: atomic {
        ARE_STARTED && !waits_for_change && connects > 0 && !MAY_CONNECT(0) && MAY_CONNECT(1) ->
        connects--;
        call!JOB_CONNECT,1
    }
#endif
    :: atomic { IS_FREE_TO_CHANGE(0) && links[0].goal == GOAL_UP -> changes--; call!JOB_PARK,0 }
    :: atomic { IS_FREE_TO_CHANGE(0) && links[0].goal == GOAL_PARKED -> changes--; call!JOB_RESUME,0 }
    :: atomic { IS_FREE_TO_CHANGE(0) && MAY_LEAVE(0) -> changes--; call!JOB_LEAVE,0 }
    :: atomic { IS_FREE_TO_CHANGE(0) && MAY_LEAVE(PRODUCERS) -> changes--; call!JOB_LEAVE,PRODUCERS }
    :: !waits_for_change && timeout -> break
    od
}

proctype other_client()
{
    do
    :: atomic {
        !waits_for_disconnect && disconnects > 0 && MAY_CHANGE(0) && links[0].job != JOB_DISCONNECT ->
        disconnects--;
        call!JOB_DISCONNECT,0
    }
#if LINKS == 2
    :: atomic {
        !waits_for_disconnect && disconnects > 0 && MAY_CHANGE(1) && links[1].job != JOB_DISCONNECT ->
        disconnects--;
        call!JOB_DISCONNECT,1
    }
#endif
    :: !waits_for_disconnect && timeout -> break
    od
}

init {
    atomic {
        ready ->
        run vmm(0);
        run vmm(1);
        run vmm(2);
        run vmm(3);
        run operator(0);
        run operator(1);
        run client();
        run other_client()
    }
}
