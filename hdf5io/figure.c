#include "hdf5io/figure.h"

#include "base/mem.h"
#include "hdf5io/book.h"
#include "kv/kv.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Whether "method:ratio=N" for the nearest whole N means what the label says. */
static bool ratio_form(const struct sink_setting *st, const char *label, char *buf, size_t cap)
{
    const struct kv_method *m = kv_method_find(st->method);
    struct kv_spec spec;
    if (!m || !kv_method_info(m).ratio || !isfinite(st->nominal_ratio))
        return false;
    snprintf(buf, cap, "%s:ratio=%.0f", st->method, st->nominal_ratio);
    if (kv_spec_parse(&spec, buf) < 0)
        return false;
    bool same = !strcmp(spec.label, label);
    kv_spec_free(&spec);
    return same;
}

const char *figure_label(const struct sink_setting *st, char *buf, size_t cap)
{
    size_t n = strlen(st->model), n_id = book_plain_id(st);
    bool prefixed = !strncmp(st->id, st->model, n) && st->id[n] == '/';
    const char *begin = prefixed ? st->id + n + 1 : st->id, *more = st->id + n_id;
    char ratio[160], *label = mem_strndup(begin, (size_t)(more - begin));
    snprintf(buf, cap, "%s%s", ratio_form(st, label, ratio, sizeof ratio) ? ratio : label, more);
    free(label);
    return buf;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Sorted distinct values; returns their count. */
static int distinct(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    int m = 0;
    for (int i = 0; i < n; i++)
        if (m == 0 || v[i] != v[m - 1])
            v[m++] = v[i];
    return m;
}

static int index_of(const double *v, int n, double x)
{
    for (int i = 0; i < n; i++)
        if (v[i] == x)
            return i;
    return -1;
}

/* From dark blue (0) over green to yellow (1): falls in lightness too, so it survives grey printing. */
static void color(double v, char out[8])
{
    static const double stop[5][3] = {
        {68, 1, 84}, {59, 82, 139}, {33, 145, 140}, {94, 201, 98}, {253, 231, 37}};
    double x = (v < 0 ? 0 : v > 1 ? 1 : v) * 4;
    int i = x >= 4 ? 3 : (int)x;
    int c[3];
    for (int k = 0; k < 3; k++)
        c[k] = (int)(stop[i][k] + (x - i) * (stop[i + 1][k] - stop[i][k]) + 0.5);
    snprintf(out, 8, "#%02x%02x%02x", c[0] & 255, c[1] & 255, c[2] & 255);
}

static void open_svg(struct str *o, double w, double h, const char *title)
{
    str_printf(o,
               "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" width=\"%g\" height=\"%g\" "
               "font-family=\"system-ui,sans-serif\" font-size=\"11\" role=\"img\"><title>",
               w, h, w, h);
    str_add_html(o, title);
    str_add(o, "</title>\n");
}

static void text(struct str *o, double x, double y, const char *anchor, const char *extra, const char *s)
{
    str_printf(o, "<text x=\"%g\" y=\"%g\" text-anchor=\"%s\" %s>", x, y, anchor, extra);
    str_add_html(o, s);
    str_add(o, "</text>\n");
}

struct grid {
    double *length, *depth, *sum;
    int *count;
    int n_length, n_depth;
};

static bool grid_make(struct grid *g, const struct summary *s, int setting, int task)
{
    const struct results *r = s->r;
    size_t cap = (size_t)r->n_example;
    *g = (struct grid){.length = mem_alloc(cap, sizeof(double)), .depth = mem_alloc(cap, sizeof(double))};
    int n = 0;
    for (int64_t i = 0; i < r->n_example; i++) {
        if (r->example[i].task == task && !isnan(r->example[i].length)) {
            g->length[n] = r->example[i].length;
            g->depth[n++] = r->example[i].depth;
        }
    }
    g->n_length = distinct(g->length, n);
    g->n_depth = distinct(g->depth, n);
    size_t cells = (size_t)(g->n_length * g->n_depth);
    g->sum = mem_alloc(cells, sizeof *g->sum);
    g->count = mem_alloc(cells, sizeof *g->count);
    for (int64_t i = 0; i < r->n_example; i++) {
        const struct sink_example *e = &r->example[i];
        const struct record *x = summary_unit(s, setting, i);
        if (e->task != task || isnan(e->length) || !x || x->status != ST_OK)
            continue;
        int at = index_of(g->depth, g->n_depth, e->depth) * g->n_length +
                 index_of(g->length, g->n_length, e->length);
        g->sum[at] += x->score;
        g->count[at]++;
    }
    return n > 0;
}

static void grid_free(struct grid *g)
{
    free(g->length);
    free(g->depth);
    free(g->sum);
    free(g->count);
}

static void draw_cell(struct str *o, const struct grid *g, int d, int l, double x, double y, double w,
                      double h)
{
    int at = d * g->n_length + l;
    char fill[8] = "none", label[16] = "–";
    double v = g->count[at] ? g->sum[at] / g->count[at] : NAN;
    if (!isnan(v)) {
        color(v, fill);
        snprintf(label, sizeof label, "%.0f", 100 * v);
    }
    str_printf(o, "<rect x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\" rx=\"2\" fill=\"%s\"/>\n", x, y, w - 2,
               h - 2, fill);
    text(o, x + (w - 2) / 2, y + h / 2 + 3, "middle", v < 0.55 ? "fill=\"#fff\"" : "fill=\"#111\"", label);
}

bool figure_needle(const struct summary *s, int setting, int task, struct str *out)
{
    struct grid g;
    if (summary_refused(s, setting))
        return false;
    bool any = grid_make(&g, s, setting, task);
    if (any) {
        double cw = g.n_length > 6 ? 34 : 46, ch = 22, left = 40, top = 26;
        double w = left + cw * g.n_length + 6, h = top + ch * g.n_depth + 34;
        char name[160], buf[32];
        figure_label(&s->r->setting[setting], name, sizeof name);
        const char *caption = "length; depth downwards";
        double title = left + 8.6 * (double)strlen(name), below = 6.2 * (double)strlen(caption);
        const bool narrow = cw * g.n_length < below; /* the caption then begins where the cells do */
        w = fmax(w, fmax(title, left + below));
        open_svg(out, w, h, name);
        text(out, left, 15, "start", "font-weight=\"600\" font-size=\"12\" fill=\"currentColor\"", name);
        for (int d = 0; d < g.n_depth; d++) {
            snprintf(buf, sizeof buf, "%.0f %%", 100 * g.depth[d]);
            text(out, left - 5, top + ch * d + ch / 2 + 3, "end", "fill=\"currentColor\"", buf);
            for (int l = 0; l < g.n_length; l++)
                draw_cell(out, &g, d, l, left + cw * l, top + ch * d, cw, ch);
        }
        for (int l = 0; l < g.n_length; l++) {
            snprintf(buf, sizeof buf, "%.0f", g.length[l]);
            text(out, left + cw * l + cw / 2 - 1, top + ch * g.n_depth + 13, "middle",
                 "fill=\"currentColor\"", buf);
        }
        text(out, narrow ? left : left + cw * g.n_length / 2, h - 4, narrow ? "start" : "middle",
             "fill=\"currentColor\" opacity=\"0.7\"", caption);
        str_add(out, "</svg>\n");
    }
    grid_free(&g);
    return any;
}

struct axis {
    double lo, hi, from, to; /* data range, pixels */
    bool log;
};

static double at(const struct axis *a, double v)
{
    double f = a->log ? (log(v) - log(a->lo)) / (log(a->hi) - log(a->lo)) : (v - a->lo) / (a->hi - a->lo);
    return a->from + f * (a->to - a->from);
}

struct point {
    int setting;
    double x, y, lo, hi;
    bool best; /* nothing has fewer bytes and a score at least as good */
};

static int by_bytes(const void *a, const void *b)
{
    const struct point *p = a, *q = b;
    if (p->x != q->x)
        return p->x < q->x ? -1 : 1;
    return p->y > q->y ? -1 : p->y < q->y;
}

static int points_of(const struct summary *s, const char *model, struct point *p)
{
    int n = 0;
    for (int i = 0; i < s->r->n_setting; i++) {
        const struct summary_setting *o = &s->setting[i];
        if (strcmp(s->r->setting[i].model, model) != 0 || !s->means.n_whole || isnan(o->kv_bytes))
            continue;
        const struct interval score = s->whole[i * s->means.n_whole].score;
        if (isnan(score.mean))
            continue;
        const bool none = score.kind == INTERVAL_NONE;
        p[n++] = (struct point){i,
                                o->kv_bytes / 1048576,
                                100 * score.mean,
                                100 * (none ? score.mean : score.lo),
                                100 * (none ? score.mean : score.hi),
                                false};
    }
    qsort(p, (size_t)n, sizeof *p, by_bytes);
    double best = -1;
    for (int i = 0; i < n; i++) {
        p[i].best = p[i].y > best;
        if (p[i].best)
            best = p[i].y;
    }
    return n;
}

static void draw_axes(struct str *o, const struct axis *x, const struct axis *y)
{
    char buf[32];
    for (int v = 0; v <= 100; v += 20) {
        double py = at(y, v);
        str_printf(
            o, "<line x1=\"%g\" x2=\"%g\" y1=\"%g\" y2=\"%g\" stroke=\"currentColor\" opacity=\"0.15\"/>\n",
            x->from, x->to, py, py);
        snprintf(buf, sizeof buf, "%d", v);
        text(o, x->from - 6, py + 4, "end", "fill=\"currentColor\"", buf);
    }
    for (double v = pow(2, ceil(log2(x->lo))); v <= x->hi; v *= 2) {
        double px = at(x, v);
        str_printf(
            o, "<line x1=\"%g\" x2=\"%g\" y1=\"%g\" y2=\"%g\" stroke=\"currentColor\" opacity=\"0.15\"/>\n",
            px, px, y->from, y->to);
        str_bytes(buf, v * 1048576);
        text(o, px, y->from + 16, "middle", "fill=\"currentColor\"", buf);
    }
    text(o, (x->from + x->to) / 2, y->from + 34, "middle", "fill=\"currentColor\"",
         "KV cache per sequence (log scale), smaller is better ←");
    str_printf(o,
               "<text transform=\"translate(14,%g) rotate(-90)\" text-anchor=\"middle\" "
               "fill=\"currentColor\">score</text>\n",
               (y->from + y->to) / 2);
}

static void draw_frontier(struct str *o, const struct point *p, int n, const struct axis *x,
                          const struct axis *y)
{
    str_add(o, "<path fill=\"none\" stroke=\"#2f7ed8\" stroke-width=\"1.5\" stroke-dasharray=\"5 3\" d=\"");
    bool first = true;
    for (int i = 0; i < n; i++) {
        if (!p[i].best)
            continue;
        str_printf(o, "%s%.1f %.1f ", first ? "M" : "L", at(x, p[i].x), at(y, p[i].y));
        first = false;
    }
    str_add(o, "\"/>\n");
}

/* The first height from ly on, in steps down (1) or up (-1), where a label covers none of the n earlier ones.
 */
static double free_height(double (*used)[3], int n, double lx, double wide, double ly, int down)
{
    for (int k = 0; k < n; k++) {
        if (fabs(used[k][1] - ly) < 12 && lx < used[k][2] && used[k][0] < lx + wide) {
            ly = used[k][1] + 13 * down;
            k = -1; /* look again from the first */
        }
    }
    return ly;
}

/* Labels sit right of their point, or left of it near the right edge; one that would cover an earlier one
 * moves down, or up where the axis has its numbers. */
static void draw_points(struct str *o, const struct summary *s, const struct point *p, int n,
                        const struct axis *x, const struct axis *y)
{
    double(*used)[3] = mem_alloc((size_t)n, sizeof *used);
    for (int i = 0; i < n; i++) {
        double px = at(x, p[i].x), py = at(y, p[i].y);
        str_printf(o,
                   "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"currentColor\" "
                   "opacity=\"0.45\"/>\n",
                   px, px, at(y, p[i].lo), at(y, p[i].hi));
        str_printf(o,
                   "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" fill=\"%s\" stroke=\"currentColor\" "
                   "stroke-width=\"0.6\"/>\n",
                   px, py, p[i].best ? "#2f7ed8" : "#b9c4d0");
        char name[160];
        figure_label(&s->r->setting[p[i].setting], name, sizeof name);
        double wide = 6.2 * (double)strlen(name);
        bool left = px + wide + 10 > x->to + 60;
        double lx = left ? px - 8 - wide : px + 8, ly = py + 4;
        for (int k = 0; k < n; k++) { /* a later point in the way: below it */
            double kx = at(x, p[k].x), ky = at(y, p[k].y);
            if (k != i && kx > lx - 5 && kx < lx + wide + 5 && fabs(ky - ly + 4) < 9)
                ly = ky + 17;
        }
        ly = free_height(used, i, lx, wide, ly, 1);
        if (ly > y->from + 4)
            ly = free_height(used, i, lx, wide, py - 8, -1);
        used[i][0] = lx, used[i][1] = ly, used[i][2] = lx + wide;
        text(o, left ? px - 8 : px + 8, ly, left ? "end" : "start", "fill=\"currentColor\"", name);
    }
    free(used);
}

void figure_frontier(const struct summary *s, const char *model, struct str *out)
{
    struct point *p = mem_alloc((size_t)s->r->n_setting, sizeof *p);
    int n = points_of(s, model, p);
    if (n > 0) {
        double lo = p[0].x, hi = p[n - 1].x;
        struct axis x = {lo / 1.3, hi * 1.3, 46, 620, true}, y = {0, 100, 330, 16, false};
        open_svg(out, 720, 376, "score versus bytes of the KV cache");
        draw_axes(out, &x, &y);
        draw_frontier(out, p, n, &x, &y);
        draw_points(out, s, p, n, &x, &y);
        str_add(out, "</svg>\n");
    }
    free(p);
}
