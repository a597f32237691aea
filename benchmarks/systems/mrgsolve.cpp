$PROB
The full model (design 2.1 to 2.3), dynamic form, Hill exponent 1. Parameters have the names of pkpd.Parameters and come
with the data set, as do the absorption rate and the drift of immune clearance in force up to each record.

$PARAM @covariates
ka_per_h = 0.3, omega = 0,
clearance_l_per_h = 1, central_volume_l = 1, intercompartmental_clearance_l_per_h = 1, peripheral_volume_l = 1,
target_degradation_per_h = 1, receptor_ec50_nM = 1, max_stimulation = 1, production_1e9_per_l_per_h = 1,
mean_transit_time_h = 1, immune_half_saturation_1e9_per_l = 1, baseline_platelets_1e9_per_l = 1

$PARAM
target_baseline_nM = 0, quasi_steady_state_constant_nM = 1, complex_internalisation_per_h = 0,
dimer_efficacy = 0, kappa_stat3 = 1, kappa_stat5 = 1, kappa_akt = 1, kappa_erk = 1,
rate_stat3_per_h = 1, rate_stat5_per_h = 1, rate_akt_per_h = 1, rate_erk_per_h = 1,
socs_strength = 0, socs_rate_per_h = 1, share_proliferation = 0, share_survival = 0, share_maturation = 0,
stat5_weight = 0, healthy_mean_transit_time_h = 1, senescence_per_h = 1,
tpo_turnover_per_h = 1, tpo_sink_constant = 1, tpo_sink_platelets = 0, tpo_sink_megakaryocytes = 0,
healthy_platelets_1e9_per_l = 1, tpo_half_activation = 1

$CMT A_d A_c A_p R STAT3 STAT5 AKT ERK SOCS M0 M1 M2 M3 M4 P T

$PLUGIN autodec

$PREAMBLE
double V = 1, Kss = 1, x0_3 = 0, x0_5 = 0, x0_a = 0, x0_e = 0, g_prol = 0, g_surv = 0, g_mat = 0;
double r0 = 0, ktr = 0, immune = 0, sink_P = 0, sink_M = 0;

$GLOBAL
// F(g, s) = 1 + g s for s >= 0 and exp(g s) below
inline double stimulus(const double g, const double s) { return s >= 0.0 ? 1.0 + g * s : exp(g * s); }
// Free concentration (nM) at quasi-steady-state binding of C_tot to R, in the form that does not cancel
inline double free_nM(const double C_tot, const double R, const double Kss) {
  const double b = C_tot - R - Kss;
  const double root = sqrt(b * b + 4.0 * Kss * C_tot);
  return b >= 0.0 ? 0.5 * (b + root) : 2.0 * Kss * C_tot / (root - b);
}

$MAIN
V = central_volume_l;
Kss = quasi_steady_state_constant_nM;
double P0 = baseline_platelets_1e9_per_l;
double Kim0 = immune_half_saturation_1e9_per_l;
double senescent = senescence_per_h * P0;
r0 = std::max(production_1e9_per_l_per_h, senescent);
ktr = 5.0 / mean_transit_time_h;
immune = (r0 - senescent) * (Kim0 + P0) / P0 * exp(omega);
double M = r0 / ktr;
sink_P = tpo_sink_platelets / healthy_platelets_1e9_per_l;
sink_M = tpo_sink_megakaryocytes / (healthy_platelets_1e9_per_l * senescence_per_h * healthy_mean_transit_time_h);
double T0 = 1.0 / (tpo_sink_constant + sink_P * P0 + sink_M * 5.0 * M);
double tau0 = T0 / (tpo_half_activation + T0);
x0_3 = (1.0 + kappa_stat3) * tau0 / (kappa_stat3 + tau0);
x0_5 = (1.0 + kappa_stat5) * tau0 / (kappa_stat5 + tau0);
x0_a = (1.0 + kappa_akt) * tau0 / (kappa_akt + tau0);
x0_e = (1.0 + kappa_erk) * tau0 / (kappa_erk + tau0);
double f = 1.0 + max_stimulation;
g_prol = pow(f, share_proliferation) - 1.0;
g_surv = pow(f, share_survival) - 1.0;
g_mat = pow(f, share_maturation) - 1.0;
R_0 = target_baseline_nM;
STAT3_0 = x0_3;
STAT5_0 = x0_5;
AKT_0 = x0_a;
ERK_0 = x0_e;
SOCS_0 = 1.0;
M0_0 = M;
M1_0 = M;
M2_0 = M;
M3_0 = M;
M4_0 = M;
P_0 = P0;
T_0 = T0;

$ODE
double C_tot = A_c / V;
double C = free_nM(C_tot, R, Kss);
double RC = C_tot - C;
double absorbed = ka_per_h * A_d;
double exchange = intercompartmental_clearance_l_per_h * (C - A_p / peripheral_volume_l);
double tau = T / (tpo_half_activation + T);
double delta = dimer_efficacy * C / (receptor_ec50_nM + C);
double j = (tau + delta - tau * delta) / (1.0 + socs_strength * (SOCS - 1.0));
double e3 = (STAT3 - x0_3) / (1.0 - x0_3);
double e5 = (STAT5 - x0_5) / (1.0 - x0_5);
double F_prol = stimulus(g_prol, stat5_weight * e5 + (1.0 - stat5_weight) * e3);
double F_surv = stimulus(g_surv, (AKT - x0_a) / (1.0 - x0_a));
double F_mat = stimulus(g_mat, (ERK - x0_e) / (1.0 - x0_e));
dxdt_A_d = -absorbed;
dxdt_A_c = absorbed - clearance_l_per_h * C - exchange - complex_internalisation_per_h * RC * V;
dxdt_A_p = exchange;
dxdt_R = target_degradation_per_h * (target_baseline_nM - R + RC) - complex_internalisation_per_h * RC;
dxdt_STAT3 = rate_stat3_per_h * ((1.0 + kappa_stat3) * j / (kappa_stat3 + j) - STAT3);
dxdt_STAT5 = rate_stat5_per_h * ((1.0 + kappa_stat5) * j / (kappa_stat5 + j) - STAT5);
dxdt_AKT = rate_akt_per_h * ((1.0 + kappa_akt) * j / (kappa_akt + j) - AKT);
dxdt_ERK = rate_erk_per_h * ((1.0 + kappa_erk) * j / (kappa_erk + j) - ERK);
dxdt_SOCS = socs_rate_per_h * (STAT5 / x0_5 - SOCS);
dxdt_M0 = r0 * F_prol - ktr * M0;
dxdt_M1 = ktr * (F_surv * M0 - M1);
dxdt_M2 = ktr * (M1 - M2);
dxdt_M3 = ktr * (M2 - M3);
dxdt_M4 = ktr * (M3 - M4);
dxdt_P = F_mat * ktr * M4 - senescence_per_h * P - immune * P / (immune_half_saturation_1e9_per_l + P);
dxdt_T = tpo_turnover_per_h * (1.0 - T * (tpo_sink_constant + sink_P * P + sink_M * (M0 + M1 + M2 + M3 + M4)));

$TABLE
double C_nM = free_nM(A_c / V, R, Kss);

$CAPTURE C_nM
